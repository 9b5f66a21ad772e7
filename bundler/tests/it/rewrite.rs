//! What real helm renders, rewritten, and read again by Go's YAML, which is what the cluster reads it with.

use std::fs;
use std::path::Path;
use std::process::Command;

use bundler::digest::Digest;
use bundler::discover::place::Kind;
use bundler::discover::{Class, discover};
use bundler::reference::Mapping;
use bundler::rewrite::{Pins, gate, rewrite};
use serde_json::Value;

/// Places and styles that `helm create` has none of.
const NASTY: &str = "kind: Odd
metadata: {name: odd}
spec:
  x: &image \"nginx:1.16.0\" # nginx:1.16.0
  y: *image
  equals: =
  octal: 010
  é: 'it''s nginx:1.16.0'
  args: [--image=nginx:1.16.0, --other-image, nginx:1.16.0, \"a\\tb: nginx:1.16.0\"]
  folded: >-
    run nginx:1.16.0
    now

      indented
  kept: |+
    1=nginx:1.16.0

    2=nginx:1.16.0

  image: {repository: docker.io/library/nginx, tag: 1.16.0}
---
# nothing but a comment
---# and this helm takes for a separator
kind: CarriageReturns\r
spec:\r
  image: nginx:1.16.0\r
  env: |\r
    a=nginx:1.16.0\r
    b=1\r
";

fn helm(dir: &Path, args: &[&str]) -> String {
    let run = Command::new("helm").current_dir(dir).args(args).output();
    let output = run.expect("helm must be on PATH (helm.sh/docs/intro/install)");
    assert!(output.status.success(), "helm {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8 from helm")
}

/// The documents as helm's own YAML reads them.
fn as_go_reads(dir: &Path, manifests: &str) -> Vec<Value> {
    let chart = dir.join("read");
    fs::create_dir_all(chart.join("templates")).expect("a directory");
    fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: read\nversion: 1.0.0\n").expect("Chart.yaml");
    fs::write(chart.join("templates/v.yaml"), "values: {{ toJson .Values }}").expect("a template");
    let read = |document: &str| {
        fs::write(dir.join("document.yaml"), document).expect("a document");
        let out = helm(dir, &["template", "r", "read", "-f", "document.yaml"]);
        let json = out.lines().find_map(|line| line.strip_prefix("values: ")).expect("the values");
        serde_json::from_str(json).expect("JSON from helm")
    };
    manifests.split("---\n").filter(|document| document.contains("kind:")).map(read).collect()
}

/// Exchanges every string of `value`.
fn exchange(value: &mut Value, old: &str, new: &str) {
    match value {
        Value::String(text) => *text = text.replace(old, new),
        Value::Array(items) => items.iter_mut().for_each(|item| exchange(item, old, new)),
        Value::Object(fields) => fields.values_mut().for_each(|field| exchange(field, old, new)),
        _ => {}
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn what_helm_renders_points_to_the_site_after_rewriting() {
    let temporary = tempfile::tempdir().expect("a directory");
    let dir = temporary.path();
    helm(dir, &["create", "web"]);
    fs::write(dir.join("web/templates/nasty.yaml"), NASTY).expect("a template");
    let manifests = helm(dir, &["template", "rel", "web"]);

    let found = discover(&manifests).expect("discovery");
    let mut images: Vec<_> =
        found.iter().filter(|f| f.class == Class::Image).map(|f| (&*f.text, &*f.place)).collect();
    images.sort_unstable();
    let deployment = "Deployment/rel-web spec.template.spec.containers[0].image";
    let test = "Pod/rel-web-test-connection spec.containers[0].image";
    assert_eq!(images, [("busybox", test), ("nginx:1.16.0", deployment)]);
    assert!(found.iter().any(|f| f.place == "Odd/odd spec.args[2]" && f.kind == Kind::Args));

    let digest = Digest::of(b"an image");
    let lock = ["nginx:1.16.0", "busybox"].map(|text| (text.parse().expect("a reference"), digest));
    let mapping = Mapping::new("site.example:5000/mirror", false).expect("a mapping");
    let refused = gate(&manifests, &Pins::new(lock.clone()), &mapping).expect_err("all points outside");
    assert_eq!(refused.kind().exit_code(), 2);
    let half = rewrite(&manifests, &Pins::new(lock[..1].to_vec()), &mapping).expect("a rewriting");
    let refused = gate(&half.text, &Pins::new(lock[..1].to_vec()), &mapping).expect_err("busybox is missing");
    assert!(refused.to_string().ends_with(&format!("\n  {test}: busybox")), "{refused}");

    let pins = Pins::new(lock);
    let rewritten = rewrite(&manifests, &pins, &mapping).expect("a rewriting");
    gate(&rewritten.text, &pins, &mapping).expect("nothing points outside");
    assert_eq!(rewrite(&rewritten.text, &pins, &mapping).expect("a second rewriting").text, rewritten.text);

    let mut before = as_go_reads(dir, &manifests);
    let site = "site.example:5000/mirror/docker.io/library";
    for document in &mut before {
        exchange(document, "docker.io/library/nginx", &format!("{site}/nginx"));
        exchange(document, "nginx:1.16.0", &format!("{site}/nginx:1.16.0@{digest}"));
        exchange(document, "busybox", &format!("{site}/busybox@{digest}"));
    }
    let after = as_go_reads(dir, &rewritten.text);
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before, after);
    }
}

/// Spellings of `containers: [{image: other}]`, most of which a YAML 1.2 parser takes for something else.
const SPELLINGS: &[&str] = &[
    "containers:\n- image: other\n",
    "containers:\n- # why\u{85}  image: other\n",
    "containers:\n- # why\u{2028}  image: other\n",
    "containers:\n- # why\u{2029}  image: other\n",
    "containers:\n- !!binary aW1hZ2U=: other\n",
    "!!binary Y29udGFpbmVycw==:\n- image: other\n",
    "containers:\n- image: !!binary b3RoZXI=\n",
    "containers:\n- \"im\\u0061ge\": other\n",
    "containers:\n- ? image\n  : other\n",
    "containers: [{image: first, image: other}]\n",
    "x: &x {image: other}\ncontainers:\n- <<: *x\n",
    "x: &x {image: other}\ncontainers:\n- !!merge <<: [*x]\n",
    "x: &x other\ncontainers: [{image: *x}]\n",
    "\u{feff}containers:\n- image: other\n",
    "containers: [{image: !!str other}]\n",
];

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn what_helm_reads_as_a_pods_image_does_not_pass_the_gate() {
    let temporary = tempfile::tempdir().expect("a directory");
    let mapping = Mapping::new("site.example:5000/mirror", false).expect("a mapping");
    for spelling in SPELLINGS {
        let read = as_go_reads(temporary.path(), &format!("{spelling}kind: Pod\n"));
        assert_eq!(read[0]["containers"][0]["image"], "other", "{spelling:?}");
        gate(spelling, &Pins::default(), &mapping).expect_err(spelling);
        let found = discover(spelling).unwrap_or_default();
        assert!(
            found.is_empty() || found.iter().any(|f| f.text == "other" && f.class == Class::Image),
            "{spelling:?}"
        );
    }
}
