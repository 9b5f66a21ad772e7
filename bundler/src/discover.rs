//! Rendered manifests -> the references to images in them.
//!
//! Nothing that could be a reference disappears silently: what is not sure is reported as possible. How sure depends on
//! the place and on what the text is called, never on a list of known charts:
//!
//! | certainty | what | `lock` |
//! |---|---|---|
//! | image | a pod spec's image, at any depth of any object; image volumes | takes it |
//! | named | the value of a key, flag, variable or item: with a registry's host, a path, and a tag or digest; where the name ends with `image`, one of them is enough (`image: nats:2.10`); `registry`, `repository` and `tag` side by side | takes it |
//! | possible | with host, path, and tag or digest, but in running text, a comment, a description or a Secret; a bare word under a name that ends with `image` | reports it |
//!
//! Text is looked at wherever it stands: args, commands, environment, annotations, custom resources, and files within
//! ConfigMaps. Not looked at are keys, and what is encoded (a Secret's `data`).

use std::fmt;

use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::yaml::{Stream, Use};

pub mod mention;

use mention::{Mention, Role, mentions};

/// A reference in rendered manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// As written; of separate fields put together.
    pub text: String,
    /// What it says.
    pub reference: Reference,
    /// The object and the path in it: `Deployment/web spec.template.spec.containers[0].image`.
    pub place: String,
    /// How sure it is that this is an image.
    pub certainty: Certainty,
}

impl Found {
    /// Whether it belongs in a lock. What does not is reported to the user.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.certainty != Certainty::Possible
    }
}

/// How sure it is that a text is a reference to an image; the order is from sure to unsure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// A pod spec has it.
    Image,
    /// It is the value of something, and complete enough for what that is called.
    Named,
    /// It looks like one.
    Possible,
}

impl fmt::Display for Certainty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Named => "named",
            Self::Possible => "possible",
        })
    }
}

/// Every reference in a stream of rendered manifests, at each of its places, in the order of the stream.
///
/// # Errors
/// When the manifests are not YAML, or a pod spec's image is not a reference: then something would be missed.
pub fn discover(manifests: &str) -> Result<Vec<Found>> {
    let stream = Stream::parse(manifests)?;
    let mut found = vec![];
    mentions(&stream, |mention| {
        let certainty = match mention.role {
            Role::PodImage => Certainty::Image,
            // No registry is asked for what stands in a Secret.
            Role::Named if stream.text(mention.at.root, "kind") != Some("Secret") => Certainty::Named,
            Role::Named | Role::Likely => Certainty::Possible,
            Role::Word | Role::Doubtful => return Ok(()),
        };
        match mention.text.parse() {
            Ok(reference) => {
                let place = place(&stream, mention.at);
                found.push(Found { text: mention.text.into(), reference, place, certainty });
            }
            Err(e) if certainty == Certainty::Image => return Err(not_a_reference(&stream, &mention, e)),
            Err(_) => {}
        }
        Ok(())
    })?;
    Ok(found)
}

fn not_a_reference(
    stream: &Stream<'_>,
    mention: &Mention<'_>,
    why: crate::reference::ReferenceError,
) -> Error {
    Error::input(format!("reading the image of {}", place(stream, mention.at)), why)
        .hint("set the image in the chart's values")
}

/// The object and the path in it.
#[must_use]
pub fn place(stream: &Stream<'_>, at: Use<'_>) -> String {
    let name = stream.get(at.root, "metadata").and_then(|metadata| stream.text(metadata, "name"));
    match (stream.text(at.root, "kind"), name) {
        (Some(kind), Some(name)) => format!("{kind}/{name} {at}"),
        (Some(kind), None) => format!("{kind} {at}"),
        _ => {
            let number = stream.roots().iter().position(|root| *root == at.root).unwrap_or_default() + 1;
            format!("document {number} {at}").trim_end().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every find as `CERTAINTY TEXT @ PLACE`.
    fn finds(manifests: &str) -> Vec<String> {
        let found = discover(manifests).expect(manifests);
        found.iter().map(|f| format!("{} {} @ {}", f.certainty, f.text, f.place)).collect()
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
            finds(manifests),
            [
                format!("image redis @ {spec}.initContainers[0].image"),
                format!("image q.io/a/b:1 @ {spec}.containers[0].image"),
                format!("image q.io/a/b:1 @ {spec}.containers[1].image"),
                format!(
                    "image r.io/model@{} @ {spec}.volumes[0].image.reference",
                    crate::digest::Digest::of(b"")
                ),
                "image busybox:1 @ Operated/x spec.pods[0].ephemeralContainers[0].image".into(),
                "image d @ document 4 containers[1].image".into(),
            ]
        );
    }

    #[test]
    fn names_decide_elsewhere() {
        for (manifest, expected) in [
            // Flags, in one word and in two.
            ("args: ['--acme-image=q.io/a:1']", &["named q.io/a:1 @ document 1 args[0]"][..]),
            ("args: [--executor-image, redis:8]", &["named redis:8 @ document 1 args[1]"]),
            (
                "command: [sh, -c, 'run --image \"q.io/a:1\" --x']",
                &["named q.io/a:1 @ document 1 command[2]"],
            ),
            ("args: ['--image-service=h:99', '--image-policy=x']", &[]),
            ("args: ['--addr=q.io/a:1', '--addr=redis:6379']", &["named q.io/a:1 @ document 1 args[0]"]),
            ("command: [sh, -c, 'pull q.io/a:1']", &["possible q.io/a:1 @ document 1 command[2]"]),
            // Environment variables.
            ("env: [{name: A_IMAGE, value: redis:8}]", &["named redis:8 @ document 1 env[0].value"]),
            ("env: [{value: q.io/a, name: A_IMAGE}]", &["named q.io/a @ document 1 env[0].value"]),
            ("env: [{name: HOST, value: redis:6379}]", &[]),
            ("env: [{name: BUILDER, value: q.io/a:1}]", &["named q.io/a:1 @ document 1 env[0].value"]),
            (
                "env: [{name: IMAGES, value: 'a:1 b/c:2'}]",
                &["named a:1 @ document 1 env[0].value", "named b/c:2 @ document 1 env[0].value"],
            ),
            ("env: [{name: IMAGE_DIR, value: /var/lib}, {name: IMAGE_TAG, value: 'v1:2'}]", &[]),
            (
                "env:\n- name: KAFKA_IMAGES\n  value: |\n    1=q.io/k:1\n    2=q.io/k:2\n",
                &["named q.io/k:1 @ document 1 env[0].value", "named q.io/k:2 @ document 1 env[0].value"],
            ),
            // Custom resources.
            (
                "spec: {baseImage: q.io/a, image: b/c:1}",
                &["named q.io/a @ document 1 spec.baseImage", "named b/c:1 @ document 1 spec.image"],
            ),
            ("spec: {image: redis, logo: redis}", &["possible redis @ document 1 spec.image"]),
            ("spec: {image: b/c}", &["possible b/c @ document 1 spec.image"]),
            ("spec: {images: [q.io/a:1]}", &["named q.io/a:1 @ document 1 spec.images[0]"]),
            (
                "spec: {image: {repository: a/b, tag: 1.20}}",
                &["named a/b:1.20 @ document 1 spec.image.repository"],
            ),
            (
                "spec: {x: {registry: q.io, repository: a, tag: v1, digest: ''}}",
                &["named q.io/a:v1 @ document 1 spec.x.repository"],
            ),
            ("spec: {image: q.io/a, tag: v1}", &["named q.io/a:v1 @ document 1 spec.image"]),
            (
                "spec: {git: {repository: q.io/a, tag: v1}}",
                &["possible q.io/a:v1 @ document 1 spec.git.repository"],
            ),
            ("spec: {git: {repository: a/b, tag: v1}}", &[]),
            // Files within ConfigMaps, and annotations.
            (
                "data: {c.yaml: \"side:\\n  image: nats:2.10.10 # x\\n\"}",
                &["named nats:2.10.10 @ document 1 data.c\\.yaml"],
            ),
            (
                "data: {c.json: '{\"image\":\"nats:2.10.10\",\"a\":\"b:1\"}'}",
                &["named nats:2.10.10 @ document 1 data.c\\.json"],
            ),
            ("data: {k: q.io/a/b:1}", &["named q.io/a/b:1 @ document 1 data.k"]),
            (
                "annotations: {images: \"- image: a/b:1\\n\"}",
                &["named a/b:1 @ document 1 annotations.images"],
            ),
            (
                "data: {k: 'docker://q.io/a:1, https://q.io/b:1 and x@q.io or q.io/c:1.'}",
                &["possible q.io/a:1 @ document 1 data.k", "possible q.io/c:1 @ document 1 data.k"],
            ),
            (
                "data: {c.yaml: \"# image: nats:2\\n#  x: q.io/a:1\\n\"}",
                &[
                    "possible nats:2 @ document 1 data.c\\.yaml",
                    "possible q.io/a:1 @ document 1 data.c\\.yaml",
                ],
            ),
            (
                "image: {description: 'Such as: q.io/a:1'}",
                &["possible q.io/a:1 @ document 1 image.description"],
            ),
            // What only looks like one.
            (
                "a: ['12:30:45', 'system:x:y', 'http://h:80/x', apps/v1, 10.0.0.0/8, 'h.svc:80/x', '=', '${R}/a:1']",
                &[],
            ),
            ("q.io/a:1: x", &[]),
        ] {
            assert_eq!(finds(manifest), expected, "{manifest}");
        }
    }

    #[test]
    fn a_pod_image_that_is_no_reference_is_an_error() {
        let error =
            discover("kind: Pod\nspec: {containers: [{image: '{{ .x }}'}]}").expect_err("no reference");
        assert!(error.to_string().contains("Pod spec.containers[0].image"), "{error}");
        assert!(error.hint_text().is_some());
    }
}
