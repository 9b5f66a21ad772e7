//! Releases: their names, namespaces, and what is said of the charts behind them. With real helm.

use crate::world::{Run, World};

/// A world with a chart called `web`, which renders `template`, and keys.
fn with_chart(template: &str) -> World {
    let world = World::new();
    world.write("web/Chart.yaml", b"apiVersion: v2\nname: web\nversion: 1.0.0\n");
    world.write("web/templates/a.yaml", template.as_bytes());
    world.keys("airlock");
    world
}

const CONFIG_MAP: &str = "kind: ConfigMap\nmetadata: {name: a, namespace: '{{ .Release.Namespace }}'}\n";

fn chart(release: &str, namespace: &str) -> String {
    format!("[[chart]]\npath = \"web\"\nrelease = \"{release}\"\n{namespace}\n")
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn one_release_in_two_namespaces_stays_two() {
    let world = with_chart(CONFIG_MAP);
    world.spec(&(chart("web", "namespace = \"one\"") + &chart("web", "namespace = \"two\"")));
    world.run(&["lock"]).exits(0);
    world.build("app.tar");
    let install = |more: &[&str]| -> Run {
        let args = ["install", "app.tar", "--key", "airlock.pub", "--registry", "site.example", "--dry-run"];
        world.run(&[&args, more].concat())
    };
    let run = install(&[]).exits(0);
    assert!(
        run.stdout.contains("namespace: 'one'") && run.stdout.contains("namespace: 'two'"),
        "{}",
        run.stdout
    );
    let json = install(&["--json"]).exits(0).json();
    assert_eq!(json["releases"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["releases"][1]["release"], "web");
    let manifests = json["releases"][1]["manifests"].as_str().expect("manifests");
    assert!(manifests.contains("namespace: 'two'"), "{manifests}");
    install(&["--namespace", "three"]).exits(1).says("--namespace: release \"web\" is there twice");
    for (flag, value) in
        [("--namespace=", "../x"), ("--namespace=", "--debug"), ("--kube-context=", "--debug")]
    {
        install(&[&format!("{flag}{value}")]).exits(1).says(flag.trim_end_matches('=')).says(value);
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn one_release_twice_is_refused_when_it_is_locked() {
    let world = with_chart(CONFIG_MAP);
    // One has its name from the chart, which the spec alone does not tell.
    for pair in [
        chart("web", "") + "[[chart]]\npath = \"web\"\n",
        chart("web", "namespace = \"one\"") + "[[chart]]\npath = \"web\"\nnamespace = \"one\"\n",
        chart("web", "namespace = \"one\"") + "[[chart]]\npath = \"web\"\n",
    ] {
        world.spec(&pair);
        world.run(&["lock"]).exits(1).says("release \"web\" is there twice").says("hint: give each chart");
    }
    assert!(!world.path("images.lock").exists());
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn two_charts_of_a_name_and_version_are_refused() {
    let world = with_chart(CONFIG_MAP);
    world.write("other/Chart.yaml", b"apiVersion: v2\nname: web\nversion: 1.0.0\ndescription: other\n");
    world.spec(&(chart("a", "") + &chart("b", "").replace("\"web\"", "\"other\"")));
    world.run(&["lock"]).exits(1).says("chart web 1.0.0 is there twice, with different content");
    world.spec(&(chart("a", "") + &chart("b", "")));
    world.run(&["lock"]).exits(0);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn what_helm_says_names_the_chart_and_no_temporary_file() {
    let world = with_chart("{{ fail \"no such thing\" }}");
    world.spec(&chart("front", ""));
    let run =
        world.run(&["lock"]).exits(4).says("rendering release front of chart web: ").says("no such thing");
    assert!(!run.stderr.contains(".tgz"), "{}", run.stderr);
    // What is no template at all, helm says with the file's name.
    world.write("web/Chart.yaml", b"apiVersion: v2\nname: web\nversion: 1.0.0\ntype: odd\n");
    let run = world.run(&["lock"]).exits(4);
    assert!(!run.stderr.contains(".tgz"), "{}", run.stderr);
}
