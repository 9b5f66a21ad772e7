//! Charts that plain helm installs: they install with airlock too, or `lock` refuses them. With real helm.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use bundler::digest::Digest;

use crate::world::{Run, World};

mod helms;
mod inputs;
mod renders;
mod schemas;
mod stops;

pub const SITE: &str = "site.example:5000";

/// A world with the chart `app`, whose files below its directory are these, and image `docker.io/acme/web:1.0`.
pub fn with_chart(files: &[(&str, &str)]) -> World {
    let world = World::new();
    world.image("web", &["linux/amd64"], b"web");
    world.write("app/Chart.yaml", b"apiVersion: v2\nname: app\nversion: 1.0.0\n");
    for (name, text) in files {
        world.write(&format!("app/{name}"), text.as_bytes());
    }
    world.spec(
        "[[chart]]\npath = \"app\"\nnamespace = \"shop\"\n\
         [[image]]\nref = \"acme/web:1.0\"\nfrom = \"oci:web\"\n",
    );
    world.keys("airlock");
    world
}

/// Locks and builds `app.tar`.
pub fn built(world: &World) {
    world.run(&["lock"]).exits(0);
    world.build("app.tar");
}

pub fn dry_run(world: &World, more: &[&str]) -> Run {
    let args = ["install", "app.tar", "--key", "airlock.pub", "--registry", SITE, "--dry-run"];
    world.run(&[&args, more].concat())
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: 'acme/web:1.0'}]}\n";

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn items_of_a_list_may_share_anchors() {
    let list = "apiVersion: v1\nkind: List\nitems:\n\
                - apiVersion: batch/v1\n  kind: Job\n  metadata: {name: first}\n  spec: &job\n    template:\n      spec:\n        \
                restartPolicy: Never\n        containers: [{name: c, image: 'acme/web:1.0'}]\n\
                - apiVersion: batch/v1\n  kind: Job\n  metadata: {name: second}\n  spec: *job\n\
                - apiVersion: batch/v1\n  kind: Job\n  metadata: {name: third}\n  spec:\n    <<: *job\n    suspend: true\n";
    let world = with_chart(&[("templates/list.yaml", list)]);
    built(&world);
    let run = dry_run(&world, &[]).exits(0);
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&run.stdout).expect(&run.stdout);
    let image = |document: &serde_json::Value| {
        let image = &document["spec"]["template"]["spec"]["containers"][0]["image"];
        image.as_str().expect(&run.stdout).to_owned()
    };
    let images: Vec<String> = documents.iter().filter(|document| !document.is_null()).map(image).collect();
    assert_eq!(images.len(), 3, "helm takes the List apart: {}", run.stdout);
    assert!(images.iter().all(|image| image.starts_with(&format!("{SITE}/docker.io/acme/web:1.0@"))));
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn lock_refuses_what_helm_breaks_on_its_way() {
    for (template, says) in [
        // The anchor stands outside of the items, which are all that a post-renderer sees.
        (
            "apiVersion: v1\nkind: List\nmetadata: {labels: &l {a: b}}\nitems:\n\
             - {apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: *l}}\n",
            "the alias *l has no anchor",
        ),
        // helm can't write its note into metadata that is an alias.
        (
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: &m {name: a}}\n\
             - {apiVersion: v1, kind: Secret, metadata: *m}\n",
            "expected MappingNode but got AliasNode",
        ),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: *x}\n", "unknown anchor"),
        // Nothing that a site could do would bring this to its registry.
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: '${R}acme/web:1.0'}\n",
            "acme/web:1.0",
        ),
    ] {
        let world = with_chart(&[("templates/a.yaml", template)]);
        let run = world.run(&["lock"]);
        assert!(
            run.code != 0 && run.stderr.contains(says) && run.stderr.contains("hint: "),
            "{says}: {run:?}"
        );
        assert!(!world.path("images.lock").exists());
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn charts_that_render_nothing_install() {
    let crd = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.acme.example}\n";
    let off = format!("{{{{ if .Values.on }}}}\n{POD}{{{{ end }}}}\n");
    let hook = POD.replace("{name: p}", "{name: p, annotations: {helm.sh/hook: pre-install}}");
    for files in [
        &[("crds/a.yaml", crd)][..],
        &[("templates/a.yaml", "# only a comment\n")],
        &[("templates/a.yaml", "---\n# a\n---\n\n---\n")],
        &[("templates/a.yaml", &off)],
        &[("templates/NOTES.txt", "Thanks.\n")],
        &[("templates/a.yaml", &hook)],
        &[],
    ] {
        let world = with_chart(files);
        built(&world);
        let run = dry_run(&world, &[]).exits(0);
        let is_hook = files.iter().any(|(_, text)| text.contains("helm.sh/hook"));
        assert_eq!(run.stdout.contains(SITE), is_hook, "{}", run.stdout);
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn every_rendering_goes_through_the_post_renderer() {
    let world = with_chart(&[("templates/a.yaml", POD)]);
    let log = world.path("log");
    world
        .write("helm", format!("#!/bin/sh\necho \"$@\" >> {}\nexec helm \"$@\"\n", log.display()).as_bytes());
    let helm = world.path("helm");
    std::fs::set_permissions(&helm, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let helm = helm.to_str().expect("UTF-8");
    let render = ["render", "app.tar", "--key", "airlock.pub", "--registry", SITE, "--helm", helm];
    world.run(&["lock", "--helm", helm]).exits(0);
    world.run(&["discover", "--offline", "--helm", helm]).exits(0);
    world.build("app.tar");
    world.run(&render).exits(0);
    dry_run(&world, &["--helm", helm]).exits(0);
    let log = std::fs::read_to_string(log).expect("a log");
    let rendered: Vec<&str> = log.lines().filter(|line| line.starts_with("template ")).collect();
    assert_eq!(rendered.len(), 4, "{log}");
    assert!(rendered.iter().all(|line| line.contains("--post-renderer")), "{log}");
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn odd_documents_are_rendered_as_helm_reads_them() {
    let kind = |name: &str, rest: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n{rest}")
    };
    let texts = [
        // A separator that YAML does not know, and one within a block scalar.
        format!("{}---# why\n{}", kind("a", ""), kind("b", "data:\n  a: |\n    ---\n    b\n")),
        kind("a", "data: {a: '1'}\n").replace('\n', "\r\n"),
        kind("a", "data: {a: '1'}\ndata: {a: '2'}\n"),
        format!("# a\n---\n# b\n---\n{}\n...\n", kind("a", "")),
        kind("a", "data:\n  a: 0o10\n  b: \"\\t\"\n  c: =\n"),
    ];
    for text in texts {
        let world = with_chart(&[("templates/a.yaml", &text)]);
        built(&world);
        let run = dry_run(&world, &[]).exits(0);
        let count = run.stdout.matches("kind: ConfigMap").count();
        assert_eq!(count, text.matches("kind: ConfigMap").count(), "{text}: {}", run.stdout);
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn images_of_subcharts_annotations_are_found() {
    let sub = |name: &str, image: &str| {
        format!(
            "apiVersion: v2\nname: {name}\nversion: 1.0.0\nannotations:\n  helm.sh/images: |\n    - name: w\n      image: {image}\n"
        )
    };
    let world = with_chart(&[
        ("charts/one/Chart.yaml", &sub("one", "acme/one:1")),
        ("charts/one/charts/two/Chart.yaml", &sub("two", "acme/two:2").replace("helm.sh/images", "images")),
        ("charts/off/Chart.yaml", &sub("off", "acme/off:3").replace("helm.sh", "artifacthub.io")),
        (
            "Chart.yaml",
            "apiVersion: v2\nname: app\nversion: 1.0.0\ndependencies:\n- {name: one, version: 1.0.0, alias: uno}\n\
             - {name: off, version: 1.0.0, condition: off.enabled}\n",
        ),
        ("values.yaml", "off: {enabled: false}\n"),
    ]);
    let found = world.run(&["discover", "--offline", "--json"]).exits(0).stdout;
    for (text, place) in [
        ("acme/one:1", "Chart/app/one metadata.annotations"),
        ("acme/two:2", "Chart/app/one/two metadata.annotations"),
        ("acme/off:3", "Chart/app/off metadata.annotations"),
    ] {
        assert!(found.contains(text) && found.contains(place), "{text}: {found}");
    }
}

/// A port where nobody should call.
pub struct Trap(TcpListener);

impl Trap {
    pub fn new() -> Self {
        let trap = TcpListener::bind("127.0.0.1:0").expect("a port");
        trap.set_nonblocking(true).expect("it does not wait");
        Self(trap)
    }

    pub fn address(&self) -> String {
        self.0.local_addr().expect("an address").to_string()
    }

    #[track_caller]
    pub fn nobody_called(&self) {
        assert!(self.0.accept().is_err(), "somebody called");
    }
}

/// `[[file]]` of a helm for `platform`, with its content.
pub fn helm_file(world: &World, name: &str, platform: &str, content: &[u8]) -> String {
    world.write(name, content);
    let digest = Digest::of(content);
    format!(
        "[[file]]\nname = \"helm\"\npath = \"{name}\"\nplatform = \"{platform}\"\nsha256 = \"{}\"\n",
        digest.hex()
    )
}
