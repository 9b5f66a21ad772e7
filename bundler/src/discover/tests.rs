//! What is seen of manifests, and as what.

use super::*;

/// Sees everything, changes nothing.
#[derive(Default)]
struct Seen(Vec<String>);

impl Visitor for Seen {
    fn visit(&mut self, mention: &Mention<'_>) -> Result<Option<Exchange>> {
        if mention.role != Role::Doubtful {
            self.0.push(format!("{:?} {} @ {}", mention.role, mention.text, mention.spot).replacen(
                "@ document 1 ",
                "@ ",
                1,
            ));
        }
        Ok(None)
    }
}

/// Every mention as `ROLE TEXT @ PLACE`.
fn mentions(manifests: &str) -> Vec<String> {
    let mut seen = Seen::default();
    let stream = Stream::parse(manifests).expect(manifests);
    mention::walk(&stream, &mut seen).expect(manifests);
    seen.0
}

#[test]
fn pod_specs_are_found_at_any_depth() {
    let manifests = "
apiVersion: batch/v1
kind: CronJob
metadata: {name: job}
spec:
  jobTemplate:
    spec:
      template:
        spec:
          initContainers: [{name: a, image: redis}]
          containers:
            - name: b
              image: &image 'q.io/a/b:1'
            - {name: c, image: *image}
          volumes:
            - name: v
              image: {reference: r.io/model@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}
---
# nothing here
---
kind: Operated
metadata:
  name: x
spec: {pods: [{ephemeralContainers: [{image: busybox:1}]}]}
---
containers: [{image: ''}, {image: d}]
";
    let spec = "CronJob/job spec.jobTemplate.spec.template.spec";
    assert_eq!(
        mentions(manifests),
        [
            format!("PodImage redis @ {spec}.initContainers[0].image"),
            format!("PodImage q.io/a/b:1 @ {spec}.containers[0].image"),
            format!("PodImage q.io/a/b:1 @ {spec}.containers[1].image"),
            format!(
                "PodImage r.io/model@{} @ {spec}.volumes[0].image.reference",
                crate::digest::Digest::of(b"")
            ),
            "PodImage busybox:1 @ Operated/x spec.pods[0].ephemeralContainers[0].image".into(),
            "PodImage d @ document 4 containers[1].image".into(),
        ]
    );
}

#[test]
fn names_decide_elsewhere() {
    for (manifest, expected) in [
        // Flags, in one word and in two, and with several arguments.
        ("args: ['--acme-image=q.io/a:1']", &["Named q.io/a:1 @ args[0]"][..]),
        ("args: [--executor-image, redis:8]", &["Named redis:8 @ args[1]"]),
        (
            "args: [--images, redis:8, 'a/b:1', busybox]",
            &["Named redis:8 @ args[1]", "Named a/b:1 @ args[2]", "Likely busybox @ args[3]"],
        ),
        ("command: [sh, -c, 'run --image \"q.io/a:1\" --x']", &["Named q.io/a:1 @ command[2]"]),
        ("args: ['--image-service=h:99', '--image-policy=x']", &["Word h:99 @ args[0]"]),
        (
            "args: ['--addr=q.io/a:1', '--addr=redis:6379']",
            &["Named q.io/a:1 @ args[0]", "Word redis:6379 @ args[1]"],
        ),
        ("command: [sh, -c, 'pull q.io/a:1']", &["Likely q.io/a:1 @ command[2]"]),
        (
            "command: [sh, -c, 'git pull origin; docker pull busybox; docker run -d nats:2.10; kubectl run x --image=b/c']",
            &["Likely busybox @ command[2]", "Word nats:2.10 @ command[2]", "Likely b/c @ command[2]"],
        ),
        // Environment variables.
        ("env: [{name: A_IMAGE, value: redis:8}]", &["Named redis:8 @ env[0].value"]),
        ("env: [{value: q.io/a, name: A_IMAGE}]", &["Named q.io/a @ env[0].value"]),
        ("env: [{name: HOST, value: redis:6379}]", &["Word redis:6379 @ env[0].value"]),
        ("env: [{name: BUILDER, value: q.io/a:1}]", &["Named q.io/a:1 @ env[0].value"]),
        (
            "env: [{name: IMAGES, value: 'a:1 b/c:2'}]",
            &["Named a:1 @ env[0].value", "Named b/c:2 @ env[0].value"],
        ),
        ("env: [{name: IMAGE_TAG, value: 'v1:2'}]", &["Word v1:2 @ env[0].value"]),
        (
            "env:\n- name: KAFKA_IMAGES\n  value: |\n    1=q.io/k:1\n    2=q.io/k:2\n",
            &["Named q.io/k:1 @ env[0].value", "Named q.io/k:2 @ env[0].value"],
        ),
        // Custom resources.
        (
            "spec: {baseImage: q.io/a, image: b/c:1}",
            &["Named q.io/a @ spec.baseImage", "Named b/c:1 @ spec.image"],
        ),
        ("spec: {image: redis, logo: redis}", &["Likely redis @ spec.image"]),
        ("spec: {image: b/c}", &["Likely b/c @ spec.image"]),
        ("spec: {images: [q.io/a:1]}", &["Named q.io/a:1 @ spec.images[0]"]),
        // OCI artifacts.
        ("spec: {url: 'oci://q.io/charts/a'}", &["Likely q.io/charts/a @ spec.url"]),
        ("image: {description: 'Such as: q.io/a:1'}", &["Remark q.io/a:1 @ image.description"]),
        ("data: {k: q.io/a/b:1}", &["Named q.io/a/b:1 @ data.k"]),
        (
            "data: {k: 'docker://q.io/a:1, https://q.io/b:1 and x@q.io or q.io/c:1.'}",
            &["Named q.io/a:1 @ data.k", "Likely q.io/c:1 @ data.k"],
        ),
        ("data: {k: 'a.image:redis:8, b:redis:8'}", &["Named redis:8 @ data.k"]),
        // What only looks like one.
        ("a: ['http://h:80/x', apps/v1, 10.0.0.0/8, 'h.svc:80/x', '=', '${R}/a:1', 'x y', '--a b']", &[]),
        ("q.io/a:1: x", &[]),
    ] {
        assert_eq!(mentions(manifest), expected, "{manifest}");
    }
}

#[test]
fn fields_tell_a_reference_together() {
    let d = crate::digest::Digest::of(b"");
    let hex = d.to_string().replace("sha256:", "");
    for (manifest, expected) in [
        ("image: {repository: a/b, tag: 1.20}", "Named a/b:1.20 @ image.repository"),
        ("x: {registry: q.io, repository: a, tag: v1, digest: ''}", "Named q.io/a:v1 @ x.repository"),
        ("x: {image: q.io/a, tag: v1}", "Named q.io/a:v1 @ x.image"),
        ("x: {image: a/b, version: v1}", "Named a/b:v1 @ x.image"),
        ("x: {image: a/b, version: v2, tag: v1}", "Named a/b:v1 @ x.image"),
        ("image: {name: a/b, tag: v1}", "Named a/b:v1 @ image.name"),
        ("images: [{name: x, newName: a/b, newTag: v1}]", "Named a/b:v1 @ images[0].newName"),
        ("x: {imageRepository: a/b, imageTag: v1}", "Named a/b:v1 @ x.imageRepository"),
        ("x: {imageRegistry: q.io, imageName: a, imageVersion: 1}", "Named q.io/a:1 @ x.imageName"),
        ("x: {sideCarImage: a, side_car_tag: 2, sideCarTag: 1}", "Named a:1 @ x.sideCarImage"),
        ("x: {image: a, image_tag: 1}", "Named a:1 @ x.image"),
        (
            &format!("image: {{repository: a/b, tag: '1', sha: {hex}}}"),
            &format!("Named a/b:1@{d} @ image.repository"),
        ),
        (&format!("image: {{repository: a/b, digest: '{d}'}}"), &format!("Named a/b@{d} @ image.repository")),
        (&format!("image: {{repository: a/b, tag: '{d}'}}"), &format!("Named a/b@{d} @ image.repository")),
        ("git: {repository: q.io/a, tag: v1}", "Likely q.io/a:v1 @ git.repository"),
        ("git: {repository: a/b, tag: v1}", "Word a/b:v1 @ git.repository"),
        ("x: {name: a, version: 1}", ""),
        ("x: {chart: a, repository: a/b, version: 1}", ""),
        ("x: {repository: 'https://h/a', tag: v1}", ""),
    ] {
        assert_eq!(mentions(manifest).join("\n"), expected, "{manifest}");
    }
    let two = "x: {aImage: q.io/a, aTag: 1, bImage: q.io/b, bTag: 2}";
    assert_eq!(mentions(two), ["Named q.io/a:1 @ x.aImage", "Named q.io/b:2 @ x.bImage"]);
}

#[test]
fn payloads_are_entered() {
    let encode = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    let secret = format!("kind: Secret\ndata: {{c: {}}}", encode("image: nats:2.10.10\n"));
    let json = encode("{\"image\": \"nats:2\", \"auths\": {}}");
    let binary = format!("kind: ConfigMap\nbinaryData: {{c: {json}}}");
    let matryoshka = "data:\n  a: |\n    b: |\n      c: |\n        image: {repository: q.io/a, tag: v1}\n";
    for (manifest, expected) in [
        (
            "data: {c.yaml: \"side:\\n  image: nats:2.10.10 # x\\n\"}",
            &["Named nats:2.10.10 @ data.c\\.yaml > side.image"][..],
        ),
        (
            "data: {c.json: '{\"image\":\"nats:2.10.10\",\"a\":\"b:1\"}'}",
            &["Named nats:2.10.10 @ data.c\\.json > image", "Word b:1 @ data.c\\.json > a"],
        ),
        (
            "annotations: {images: \"- image: a/b:1\\n- {name: x, image: c}\\n\"}",
            &["Named a/b:1 @ annotations.images > [0].image", "Likely c @ annotations.images > [1].image"],
        ),
        (
            "data: {c.yaml: \"# image: nats:2\\n#  x: q.io/a:1\\na: image\\n\"}",
            &["Remark nats:2 @ data.c\\.yaml", "Remark q.io/a:1 @ data.c\\.yaml"],
        ),
        (
            "data: {p.yaml: \"spec:\\n  containers:\\n  - image: busybox\\n\"}",
            &["Named busybox @ data.p\\.yaml > spec.containers[0].image"],
        ),
        // Not YAML: a template, properties.
        (
            "data: {t: \"{{ if .x }}\\nimage: nats:2\\n{{ end }}\\nimage: {{ .y }}\\n\"}",
            &["Named nats:2 @ data.t"],
        ),
        ("data: {p: \"a.image=nats:2\\nb=redis:8\\n\"}", &["Named nats:2 @ data.p", "Word redis:8 @ data.p"]),
        (&secret, &["Named nats:2.10.10 @ Secret data.c > image"]),
        (&binary, &["Named nats:2 @ ConfigMap binaryData.c > image"]),
        (matryoshka, &["Named q.io/a:v1 @ data.a > b > c > image.repository"]),
    ] {
        assert_eq!(mentions(manifest), expected, "{manifest}");
    }
}

#[test]
fn places_have_kinds() {
    let manifests = "
apiVersion: v1
kind: Pod
metadata: {name: p, annotations: {helm.sh/hook: test, proxyImage: q.io/n:1}}
spec: {containers: [{image: q.io/a:1, args: [--image=q.io/b:1], env: [{name: IMAGE, value: q.io/c:1}]}]}
---
apiVersion: x.io/v1
kind: Odd
spec: {image: q.io/d:1, containers: [{image: q.io/e:1, command: [q.io/f:1]}]}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, data: {a: q.io/g:1}}
- {apiVersion: v1, kind: Secret, stringData: {a: q.io/h:1}}
- {apiVersion: networking.k8s.io/v1, kind: Ingress, spec: {a: q.io/i:1}}
- {apiVersion: snapshot.storage.k8s.io/v1, kind: Snap, spec: {a: q.io/j:1}}
";
    let found = discover(manifests).expect("manifests");
    let kinds: Vec<_> = found.iter().map(|f| format!("{} {}", f.text, f.kind)).collect();
    assert_eq!(
        kinds,
        [
            "q.io/n:1 annotation",
            "q.io/a:1 pod-hook",
            "q.io/b:1 args",
            "q.io/c:1 env",
            "q.io/d:1 cr",
            "q.io/e:1 pod",
            "q.io/f:1 args",
            "q.io/g:1 configmap",
            "q.io/h:1 secret",
            "q.io/i:1 field",
            "q.io/j:1 cr",
        ]
    );
}

#[test]
fn what_is_possible_says_why_nobody_is_asked() {
    let secret = "kind: Secret\nstringData: {a: 'q.io/a:1', b: 'redis:6379', c: 'redis:8'}\n---\nkind: Role\nmetadata: {name: 'a:b'}";
    let found = discover(secret).expect("manifests");
    let said: Vec<_> = found.iter().map(|f| (&*f.text, f.class, f.why.as_deref())).collect();
    assert_eq!(
        said,
        [("q.io/a:1", Class::Possible, Some(SECRET)), ("redis:8", Class::Possible, Some(SECRET))]
    );
    let found = discover("a: |\n  # q.io/a:1\n  b\n").expect("manifests");
    assert_eq!(found[0].why.as_deref(), Some(REMARK));
}

#[test]
fn a_pod_image_that_is_no_reference_hides_nothing_else() {
    let found = discover("kind: Pod\nspec: {containers: [{image: '{{ .x }}'}, {image: q.io/a:1}]}")
        .expect("manifests");
    let said: Vec<_> = found.iter().map(|f| (&*f.text, f.class)).collect();
    assert_eq!(said, [("{{ .x }}", Class::Unreadable), ("q.io/a:1", Class::Image)]);
    assert_eq!(found[0].place, "Pod spec.containers[0].image");
    assert!(found[0].why.as_deref().is_some_and(|why| why.contains("not an image reference")));
}
