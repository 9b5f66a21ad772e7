//! `render` for those who apply manifests without helm: every object is where its release belongs.

use serde_json::Value;

use super::{POD, SITE, built, with_chart};
use crate::world::{Run, World, names};

const ROLE: &str = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: r}\n";
const OTHER: &str = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n  namespace: other\n";
const THING: &str = "apiVersion: acme.example/v1\nkind: Thing\nmetadata: {name: t}\n";
const ODD: &str = "apiVersion: odd.example/v1\nkind: Odd\nmetadata: {name: o}\n";
const LIST: &str =
    "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata:\n    name: l\n";
const CRD: &str = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.acme.example}\n\
                   spec: {group: acme.example, scope: Namespaced, names: {kind: Thing, plural: things}, versions: []}\n";

/// Two releases of one chart in two namespaces.
fn with_releases() -> World {
    let hook = POD.replace("{name: p}", "{name: h, annotations: {helm.sh/hook: pre-install}}");
    let all = [POD, ROLE, OTHER, THING, ODD, LIST, &hook].join("---\n");
    // helm takes a List apart only where it stands alone.
    let world = with_chart(&[("templates/a.yaml", &all), ("templates/b.yaml", LIST), ("crds/a.yaml", CRD)]);
    let chart = |namespace: &str| format!("[[chart]]\npath = \"app\"\nnamespace = \"{namespace}\"\n");
    let image = "[[image]]\nref = \"acme/web:1.0\"\nfrom = \"oci:web\"\n";
    world.spec(&(chart("one") + &chart("two") + image));
    built(&world);
    world
}

fn render(world: &World, more: &[&str]) -> Run {
    let args = ["render", "app.tar", "--key", "airlock.pub", "--registry", SITE];
    world.run(&[&args, more].concat())
}

fn documents(text: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).expect(text);
    all.into_iter().filter(|document| !document.is_null()).collect()
}

/// `KIND NAMESPACE/NAME` of every object, items of lists too.
fn titles(documents: &[Value]) -> Vec<String> {
    let mut all = vec![];
    for document in documents {
        if let Some(items) = document["items"].as_array() {
            all.extend(titles(items));
            continue;
        }
        let metadata = &document["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let (kind, namespace, name) = (&document["kind"], &metadata["namespace"], &metadata["name"]);
        all.push(format!("{} {}/{}", text(kind), text(namespace), text(name)));
    }
    all.sort();
    all
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn every_object_names_the_namespace_of_its_release() {
    let world = with_releases();
    let run = render(&world, &[]).exits(0).says("got no namespace: Odd.odd.example;");
    let expected = |namespace: &str| {
        ["ConfigMap */l", "ConfigMap */l", "Pod */h", "Pod */p", "Thing */t"]
            .map(|title| title.replace('*', namespace))
    };
    let everywhere = ["ClusterRole -/r", "Odd -/o", "Secret other/s"].map(str::to_owned);
    let mut all = [&expected("one")[..], &everywhere, &expected("two"), &everywhere].concat();
    all.sort();
    assert_eq!(titles(&documents(&run.stdout)), all);
    let said = render(&world, &["--namespaced-kind", "Odd.odd.example"]).exits(0);
    assert!(
        titles(&documents(&said.stdout)).contains(&"Odd one/o".into()) && said.stderr.is_empty(),
        "{said:?}"
    );
    let install = ["install", "app.tar", "--key", "airlock.pub", "--registry", SITE, "--dry-run"];
    assert_eq!(titles(&documents(&world.run(&install).exits(0).stdout)), all);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn json_says_where_each_document_belongs() {
    let world = with_releases();
    let json = render(&world, &["--json", "--create-namespace"]).exits(0).json();
    let all = json["documents"].as_array().expect("documents");
    let of = |namespace: &str| all.iter().filter(|document| document["namespace"] == namespace).count();
    assert_eq!((of("one"), of("two"), all.len()), (8, 8, 16), "{json}");
    for document in all {
        assert_eq!((&document["release"], &document["chart"]), (&"app".into(), &"app".into()));
        assert!(document["manifest"].as_str().is_some_and(|text| text.contains("kind: ")), "{document}");
    }
    assert_eq!(json["releases"][1]["namespace"], "two");
    assert_eq!(json["namespaces"].as_array().map(Vec::len), Some(2));
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn releases_have_files_and_namespaces_of_their_own() {
    let world = with_releases();
    let run = render(&world, &["--output-dir", "out", "--create-namespace"]).exits(0);
    assert_eq!(run.stdout.lines().count(), 4, "{}", run.stdout);
    assert_eq!(names(&world.path("out")), ["one", "two"]);
    assert_eq!(names(&world.path("out/two")), ["_namespace.yaml", "app.yaml"]);
    let read = |path: &str| documents(&std::fs::read_to_string(world.path(path)).expect(path));
    assert_eq!(titles(&read("out/two/_namespace.yaml")), ["Namespace -/two"]);
    assert!(titles(&read("out/two/app.yaml")).contains(&"Pod two/p".into()));
    // Files may be written again.
    render(&world, &["--output-dir", "out"]).exits(0);
    let printed = render(&world, &["--create-namespace"]).exits(0);
    assert_eq!(titles(&documents(&printed.stdout)).iter().filter(|t| t.starts_with("Namespace")).count(), 2);
}
