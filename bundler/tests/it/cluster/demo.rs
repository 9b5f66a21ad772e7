//! The demo's bundle, installed: pods run, and from what; helm knows the releases.

use serde_json::Value;

use super::kubernetes::{Cluster, PATIENCE};
use crate::interop::{carried, part, shared};
use crate::world::Run;

/// Installs charts of the shared bundle.
fn install(cluster: &Cluster, registry: &str, namespace: &str, more: &[&str]) -> Run {
    let args =
        ["install", "app.tar", "--key", "airlock.pub", "--registry", registry, "--namespace", namespace];
    cluster.airlock(shared(), &[&args[..], &["--plain-http", registry], more].concat())
}

/// That every container of some pods runs an image of the bundle, asked for at `registry`. The runtime names the place that it
/// first had an image from, so that is not looked at.
#[track_caller]
fn assert_out_of_the_bundle(pods: &[Value], registry: &str) {
    let digests: Vec<String> = carried().into_iter().map(|(_, digest)| digest).collect();
    for pod in pods {
        let name = &pod["metadata"]["name"];
        let wanted = pod["spec"]["containers"].as_array().expect("containers");
        for container in wanted {
            let image = container["image"].as_str().expect("an image");
            assert!(image.starts_with(&format!("{registry}/")), "{name}: {image}");
        }
        let statuses = pod["status"]["containerStatuses"].as_array().expect("statuses");
        assert_eq!(statuses.len(), wanted.len(), "{name}");
        for status in statuses {
            assert_eq!(status["ready"], true, "{name}: {status}");
            let id = status["imageID"].as_str().expect("an ID");
            let (_, digest) = id.split_once('@').expect(id);
            assert!(digests.iter().any(|known| known == digest), "{name}: {id} is not in {digests:?}");
        }
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn pods_run_out_of_a_registry_that_was_pushed_to_and_helm_knows_the_releases() {
    let cluster = Cluster::take();
    let (registry, site) = (cluster.registry(), "airlock-it-push");
    let _namespace = cluster.namespace(site);
    let run = install(&cluster, &registry.host, site, &[]).exits(0);
    assert!(run.stdout.contains("hello") && run.stdout.contains("web"), "{}", run.stdout);

    // Two of the service, its Redis, and a stranger's chart.
    let pods = cluster.pods(site);
    assert_eq!(pods.len(), 4, "{pods:?}");
    assert_out_of_the_bundle(&pods, &registry.host);
    for seen in 1..=2 {
        let greeting = cluster.greeting(site, "hello");
        assert_eq!(greeting, format!("Hello from Redis! I have been seen {seen} times."));
    }
    assert!(cluster.greeting(site, "web").contains("Out of the bundle"));

    let list = cluster.helm(site, &["list", "--output", "json"]).exits(0).json();
    let names: Vec<&Value> =
        list.as_array().expect("a list").iter().map(|release| &release["name"]).collect();
    assert_eq!(names, ["hello", "web"]);
    let manifest = cluster.helm(site, &["get", "manifest", "hello"]).exits(0).stdout;
    assert!(
        manifest.contains(&format!("image: {}/docker.io/airlock-dev/hello:0.1.0@sha256:", registry.host))
    );
    assert!(!manifest.contains("image: docker.io/"), "{manifest}");
    let hooks = cluster.helm(site, &["get", "hooks", "web"]).exits(0).stdout;
    assert!(
        hooks.contains(&format!("image: {}/docker.io/library/busybox@sha256:", registry.host)),
        "{hooks}"
    );
    // Pods of their own, which ask the Services by name.
    for release in ["hello", "web"] {
        cluster.helm(site, &["test", release, "--timeout", PATIENCE]).exits(0);
    }

    // Again, and with other values: the same release, a revision on.
    install(&cluster, &registry.host, site, &["--release", "hello", "--set", "hello:replicaCount=1"])
        .exits(0);
    let pods = cluster.pods(site);
    assert_out_of_the_bundle(&pods, &registry.host);
    let count = |pods: &[Value]| {
        pods.iter()
            .filter(|p| {
                p["metadata"]["name"]
                    .as_str()
                    .is_some_and(|n| n.starts_with("hello-") && !n.contains("redis"))
            })
            .count()
    };
    assert_eq!(count(&pods), 1, "{pods:?}");
    let history = cluster.helm(site, &["history", "hello", "--output", "json"]).exits(0).json();
    let statuses: Vec<&Value> =
        history.as_array().expect("a list").iter().map(|revision| &revision["status"]).collect();
    assert_eq!(statuses, ["superseded", "deployed"]);
    // What was counted is still there.
    assert_eq!(cluster.greeting(site, "hello"), "Hello from Redis! I have been seen 3 times.");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn pods_run_straight_out_of_the_bundle() {
    let cluster = Cluster::take();
    let (registry, site) = (cluster.serve(shared(), "app.tar"), "airlock-it-serve");
    let _namespace = cluster.namespace(site);
    install(&cluster, &registry.host, site, &["--no-push", "--release", "hello"]).exits(0);
    let pods = cluster.pods(site);
    assert_eq!(pods.len(), 3, "{pods:?}");
    assert_out_of_the_bundle(&pods, &registry.host);
    assert_eq!(cluster.greeting(site, "hello"), "Hello from Redis! I have been seen 1 times.");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn nothing_is_applied_when_the_api_server_is_not_there() {
    let cluster = Cluster::take();
    let here = tempfile::tempdir().expect("a directory");
    let kubeconfig = here.path().join("kubeconfig");
    let text = std::fs::read_to_string(part("AIRLOCK_TEST_KUBECONFIG")).expect("a kubeconfig");
    std::fs::write(&kubeconfig, text.replace(":6443", ":6444")).expect("written");
    let (registry, site) = (cluster.serve(shared(), "app.tar"), "airlock-it-gone");
    let _namespace = cluster.namespace(site);
    let args = ["install", "app.tar", "--key", "airlock.pub", "--registry", &registry.host, "--no-push"];
    let more = ["--namespace", site, "--plain-http", &registry.host];
    let config = format!("KUBECONFIG={}", kubeconfig.display());
    let airlock = [&[config.as_str(), env!("CARGO_BIN_EXE_airlock")][..], &args, &more].concat();
    let mut command = cluster.command("env", &airlock);
    let run: Run = command.current_dir(shared().path("")).output().expect("airlock").into();
    run.exits(4).says("error: ").says("10.42.0.1:6444");
    cluster.kubectl(&["get", "namespace", site]).exits(1);
}
