//! `airlock discover` and what `lock` takes of it, with a real registry that is asked.

use std::fs;

use serde_json::Value;

use super::{BUSYBOX, REDIS, WEB, airlock, lock_of, tool};
use crate::world::World;

/// Images at all kinds of places: one in a pod; what upstream has and has not; what nobody may be asked for.
const TEMPLATE: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: main}
spec:
  containers:
  - name: main
    image: quay.io/example/web:1.0.0
    args: [--helper-image=busybox:1.36, --cache=redis:6379, --absent=quay.io/example/absent:1]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: controller}
data:
  config.yaml: |
    # busybox:1.35 it was
    sidecar:
      image: {registry: docker.io, repository: library/redis, tag: 8.10.1-alpine}
    other: registry.example/other:1
    nobody: 127.0.0.1:5/nobody:1
---
apiVersion: v1
kind: Secret
metadata: {name: secret}
stringData: {image: 'docker.io/library/busybox:latest'}
---
{{- if .Values.extra }}
apiVersion: v1
kind: Pod
metadata: {name: extra, annotations: {helm.sh/hook: test}}
spec: {containers: [{name: x, image: {{ .Values.extra | quote }}}]}
{{- end }}
{{- if .Capabilities.APIVersions.Has "example.com/v1" }}
---
apiVersion: example.com/v1
kind: Odd
spec: {image: {{ printf "docker.io/library/busybox:%s" .Capabilities.KubeVersion.Minor | quote }}}
{{- end }}
"#;

fn chart(world: &World) {
    world.write("odd/Chart.yaml", b"apiVersion: v2\nname: odd\nversion: 1.0.0\nannotations:\n  artifacthub.io/images: |\n    - name: b\n      image: docker.io/library/busybox:latest\n");
    world.write("odd/values.yaml", b"extra: ''\n");
    world.write("odd/templates/all.yaml", TEMPLATE.as_bytes());
}

/// Class and why of every text.
fn said(report: &str) -> Vec<(String, String, String)> {
    let report: Value = serde_json::from_str(report).expect("JSON");
    let places = report["references"].as_array().expect("references").iter().flat_map(|r| {
        r["places"].as_array().expect("places").iter().map(|p| {
            let field = |name: &str| p[name].as_str().unwrap_or_default().to_owned();
            (field("text"), field("class"), field("why"))
        })
    });
    places.collect()
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn registries_make_certain_what_looks_like_theirs() {
    let world = World::new();
    chart(&world);
    world.spec("registries = [\"docker.io\"]\n[[chart]]\npath = \"odd\"\n");
    let run = airlock(&world, &["--json", "discover"]).exits(0);
    let all = said(&run.stdout);
    let of = |text: &str| {
        // The surest of its places: one may be in a Secret.
        let found = all.iter().filter(|(t, ..)| t == text).min_by_key(|(_, class, _)| class.clone());
        found.map(|(_, class, why)| (class.as_str(), why.as_str()))
    };
    assert_eq!(of(WEB), Some(("image", "")));
    assert_eq!(of("busybox:1.36"), Some(("certain", "")));
    assert_eq!(of(REDIS), Some(("certain", "")));
    assert_eq!(of("docker.io/library/busybox:latest"), Some(("certain", "")), "the chart's annotation");
    assert_eq!(of("redis:6379"), None);
    for (text, why) in [
        ("quay.io/example/absent:1", "quay.io has no such image"),
        ("busybox:1.35", "comment"),
        ("registry.example/other:1", "registry.example is not asked"),
        ("127.0.0.1:5/nobody:1", "127.0.0.1:5 is not asked"),
    ] {
        let (class, said) = of(text).expect(text);
        assert!(class == "possible" && said.contains(why), "{text}: {class} {said}");
    }
    let in_secret = all.iter().find(|(.., why)| why.contains("Secret")).expect("the Secret's");
    assert_eq!(in_secret.1, "possible");
    airlock(&world, &["discover", "--strict"]).exits(1).says("hint: say in bundle.toml what it is");
    // Nobody is asked.
    let offline = airlock(&world, &["--json", "discover", "--offline"]).exits(0);
    assert!(said(&offline.stdout).iter().all(|(_, class, _)| class != "certain"));
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_lock_has_all_variants_and_what_the_spec_says() {
    let world = World::new();
    chart(&world);
    let chart = "[[chart]]\npath = \"odd\"\nadd = [\"docker.io/library/busybox:latest\"]\n\
         ignore = [{text = \"quay.io/example/absent:1\", reason = \"made up\"}, \
         {text = \"registry.example/other:1\", reason = \"made up\"}]\n\
         map = [{text = \"127.0.0.1:5/nobody:1\", ref = \"docker.io/library/busybox:1.36\"}]\n";
    let variant = "[[chart.variant]]\nset = [\"extra=docker.io/library/redis:8.10.1-alpine\"]\n";
    world.spec(&format!("{chart}{variant}"));
    airlock(&world, &["lock"]).exits(0).says("not taken for images").says("airlock discover");
    let lock = lock_of(&world, "images.lock");
    let images: Vec<String> = lock.images.iter().map(|i| i.reference.to_string()).collect();
    assert_eq!(images, ["docker.io/library/busybox:1.36", "docker.io/library/busybox:latest", REDIS, WEB]);
    assert_eq!(lock.images[0].meant_by, ["127.0.0.1:5/nobody:1"]);
    airlock(&world, &["lock", "--check"]).exits(0);
    airlock(&world, &["lock", "--strict"]).exits(1).says("may be images");

    // Rewritten by the lock alone, and by the bundle.
    let rendered = tool(&world.path(""), "helm", &["template", "odd", "odd"]).exits(0).stdout;
    world.write("in.yaml", rendered.as_bytes());
    let rewrite = ["rewrite", "in.yaml", "--registry", "site.example:5000/mirror"];
    let by_lock = airlock(&world, &rewrite).exits(0).stdout;
    for kept in [BUSYBOX, REDIS, WEB] {
        let digest = &lock.images.iter().find(|i| i.reference.to_string() == kept).expect(kept).digest;
        assert!(
            by_lock.contains(&format!("site.example:5000/mirror/{kept}@{digest}")) || kept == REDIS,
            "{by_lock}"
        );
    }
    assert!(
        !by_lock.contains("nobody:1") && by_lock.contains("repository: mirror/docker.io/library/redis"),
        "{by_lock}"
    );
    world.keys("airlock");
    airlock(&world, &["build", "--key", "airlock.key", "--output", "b.tar"]).exits(0);
    let by_bundle = airlock(&world, &[&rewrite[..], &["--bundle", "b.tar", "--key", "airlock.pub"]].concat());
    assert_eq!(by_bundle.exits(0).stdout, by_lock);
    fs::remove_file(world.path("images.lock")).expect("removed");
    airlock(&world, &rewrite).exits(1).says("no such file").says("airlock lock");

    // A pod's image is not to be ignored; one that is no reference is said.
    world.spec(&format!("[[chart]]\npath = \"odd\"\nignore = [{{text = \"{WEB}\", reason = \"x\"}}]\n"));
    airlock(&world, &["lock"]).exits(1).says("a pod has it: Pod/main");
    world.spec("[[chart]]\npath = \"odd\"\nset = [\"extra=a b\"]\n");
    airlock(&world, &["lock"])
        .exits(1)
        .says("no references")
        .says("Pod/extra spec.containers[0].image: \"a b\"");
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_chart_is_rendered_for_the_versions_that_the_spec_lists() {
    let world = World::new();
    chart(&world);
    world.spec(
        "[[chart]]\npath = \"odd\"\n[[chart.variant]]\nkube_version = \"1.36\"\napi_versions = [\"example.com/v1\"]\n\
         [[chart.variant]]\nkube_version = \"1.35\"\napi_versions = [\"example.com/v1\"]\n",
    );
    let run = airlock(&world, &["--json", "discover", "--offline"]).exits(0);
    let all = said(&run.stdout);
    for minor in ["36", "35"] {
        assert!(
            all.iter().any(|(text, ..)| *text == format!("docker.io/library/busybox:{minor}")),
            "{all:?}"
        );
    }
}
