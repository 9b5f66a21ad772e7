//! Images that no manifest of ours names: a mirror gives the node what nobody rewrote, a policy rewrites it on the way in. Both
//! stay when the node's parts start again.

use std::fs;
use std::process::Command;

use super::kubernetes::{Cluster, Hosts, eventually};
use crate::interop::{BUSYBOX, part, shared, upstream_for};
use crate::world::{Run, names};

/// A pod that a person makes by hand.
fn pod(cluster: &Cluster, namespace: &str, name: &str, image: &str, more: &[&str]) -> Run {
    let image = format!("--image={image}");
    let args =
        ["--namespace", namespace, "run", name, &image, "--image-pull-policy=Always", "--restart=Never"];
    // Ended at once: nobody waits for what sleeps.
    let overrides = ["--overrides", r#"{"spec": {"terminationGracePeriodSeconds": 0}}"#];
    cluster.kubectl(&[&args[..], &overrides, more, &["--", "sleep", "1000"]].concat())
}

/// Waits until a pod runs; the ID of the image that it runs, and since when it does.
fn running(cluster: &Cluster, namespace: &str, name: &str) -> (String, String) {
    let mut pod = serde_json::Value::Null;
    eventually(&format!("pod {name} runs"), || {
        pod = cluster.get(namespace, &["pod", name]);
        pod["status"]["phase"] == "Running"
    });
    let status = &pod["status"]["containerStatuses"][0];
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    (text(&status["imageID"]), text(&status["state"]["running"]["startedAt"]))
}

/// A namespace that takes pods.
fn make(cluster: &Cluster, namespace: &str) {
    cluster.kubectl(&["create", "namespace", namespace]).exits(0);
    eventually("the namespace has its account", || {
        cluster.kubectl(&["--namespace", namespace, "get", "serviceaccount", "default"]).code == 0
    });
}

/// The process of a part, as the machine sees it: by its program and first argument, or by its configuration.
fn process(of: &str) -> Option<String> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let program = part("AIRLOCK_TEST_KUBECTL");
    let config = part("AIRLOCK_TEST_CRI").replace(".sock", ".toml");
    pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit())).find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let words: Vec<&str> = line.split('\0').collect();
        match of {
            "containerd" => words.starts_with(&["containerd", "--config", &config]),
            _ => words.starts_with(&[&program, of]),
        }
    })
}

/// Ends the node's parts, without a chance to say goodbye, and waits until they are back.
fn restart(cluster: &Cluster) {
    for part in ["kube-apiserver", "containerd", "kubelet"] {
        let pid = process(part).expect(part);
        assert!(Command::new("kill").args(["-KILL", &pid]).status().expect("kill").success());
        eventually(part, || process(part).is_some_and(|new| new != pid));
    }
    eventually("the API server is back", || cluster.kubectl(&["get", "--raw", "/readyz"]).code == 0);
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn mirrors_give_the_node_names_that_nobody_rewrote() {
    let cluster = Cluster::take();
    let (registry, site) = (cluster.serve(shared(), "app.tar"), "airlock-it-mirror");
    let _namespace = cluster.namespace(site);
    make(&cluster, site);
    // There is no way out, so without a mirror there is no image.
    pod(&cluster, site, "without", BUSYBOX, &[]).exits(0);
    eventually("the pull fails", || {
        cluster.kubectl(&["--namespace", site, "get", "events"]).stdout.contains("Failed to pull image")
    });

    let node = tempfile::tempdir().expect("a directory");
    let to = node.path().display().to_string();
    let args = ["mirrors", "containerd", "app.tar", "--key", "airlock.pub", "--registry", &registry.host];
    let plain = ["--plain-http", &registry.host, "--output-dir", &to];
    cluster.airlock(shared(), &[&args[..], &plain].concat()).exits(0);
    let written = node.path().join("etc/containerd/certs.d");
    let read = |host: &String| fs::read_to_string(written.join(host).join("hosts.toml")).expect("hosts.toml");
    let hosts: Vec<Hosts> =
        names(&written).iter().filter(|h| **h != registry.host).map(|h| Hosts::write(h, &read(h))).collect();
    assert!(hosts.len() > 1, "{:?}", names(&written));
    pod(&cluster, site, "with", BUSYBOX, &[]).exits(0);
    let (id, since) = running(&cluster, site, "with");
    // The runtime names the place that it first had an image from.
    assert!(id.ends_with(&format!("@{}", upstream_for(BUSYBOX, "amd64"))), "{id}");

    restart(&cluster);
    pod(&cluster, site, "afterwards", BUSYBOX, &[]).exits(0);
    running(&cluster, site, "afterwards");
    assert_eq!(running(&cluster, site, "with"), (id, since));
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_policy_rewrites_pods_made_by_hand_and_refuses_what_is_not_of_the_bundle() {
    let cluster = Cluster::take();
    let (registry, site) = (cluster.serve(shared(), "app.tar"), "airlock-it-policy");
    let _namespace = cluster.namespace(site);
    make(&cluster, site);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("policy.yaml");
    let args = ["policy", "app.tar", "--key", "airlock.pub", "--registry", &registry.host, "--enforce"];
    fs::write(&file, cluster.airlock(shared(), &args).exits(0).stdout).expect("written");
    let file = file.display().to_string();
    // They stay: an API server whose last binding goes does not read its maps again before it is started anew.
    cluster.kubectl(&["apply", "--filename", &file]).exits(0);
    cluster.kubectl(&["label", "namespace", site, "airlock.dev/site-images=enforced"]).exits(0);

    let digest = upstream_for(BUSYBOX, "amd64");
    let expected = format!("{}/{BUSYBOX}@{digest}", registry.host);
    let dry = ["--dry-run=server", "--output", "jsonpath={.spec.containers[0].image}"];
    let rewritten = |image: &str| pod(&cluster, site, "dry", image, &dry);
    // The API server looks for new policies once in a while.
    eventually("the policy holds", || rewritten(BUSYBOX).stdout == expected);
    for spelling in ["busybox:1.36", "docker.io/busybox:1.36", "index.docker.io/library/busybox:1.36"] {
        assert_eq!(rewritten(spelling).exits(0).stdout, expected, "{spelling}");
    }
    pod(&cluster, site, "by-hand", "busybox:1.36", &[]).exits(0);
    let (id, since) = running(&cluster, site, "by-hand");
    assert!(id.ends_with(&format!("@{digest}")), "{id}");
    let foreign = "quay.io/evil/miner:1";
    eventually("foreign images are refused", || rewritten(foreign).code != 0);
    rewritten(foreign).exits(1).says(foreign);
    // Elsewhere nothing is changed.
    let elsewhere = pod(&cluster, "default", "dry", BUSYBOX, &dry).exits(0);
    assert_eq!(elsewhere.stdout, BUSYBOX);

    restart(&cluster);
    eventually("the policy holds again", || rewritten(BUSYBOX).stdout == expected);
    eventually("foreign images are refused again", || rewritten(foreign).code != 0);
    assert_eq!(running(&cluster, site, "by-hand"), (id, since));
}
