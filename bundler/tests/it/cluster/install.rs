//! `airlock install`, `rollback`, `uninstall` and `receipts` on a real cluster.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::site::{Site, inside, kubeconfig};
use crate::parts::{Running, free_port, succeed};
use crate::world::Run;

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something that will be so.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn receipts(site: &Site) -> Vec<Value> {
    let run = site.run(&["receipts", "--namespace", &site.namespace, "--site-key", "site.pub", "--json"]);
    run.exits(0).json().as_array().cloned().expect("a list")
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_bundle_is_installed_upgraded_rolled_back_and_removed() {
    let site = Site::new("life");
    let checked = site.install("1.tar", &["--preflight", "--json"]).exits(0).json();
    assert_eq!(checked["releases"][0]["revision"], Value::Null);
    assert_eq!(checked["releases"][0]["changes"].as_array().map(Vec::len), Some(2), "{checked}");
    assert!(site.kubectl(&["get", "namespaces"]).lines().all(|line| !line.contains(&site.namespace)));

    let signed = ["--site-key", "site.key", "--receipt", "receipt.json", "--wait", "--prove-pull", "--json"];
    let done = site.install("1.tar", &signed).exits(0).json();
    assert_eq!(
        (&done["releases"][0]["revision"], &done["releases"][0]["release"]),
        (&1.into(), &"web".into())
    );
    assert_eq!(done["pulls"][0]["failure"], Value::Null);
    assert_eq!(site.objects("pods").len(), 1, "the pod that proved the pull is gone");
    let manifest = succeed(inside("helm").args(["get", "manifest", "web", "--namespace", &site.namespace]));
    let digest = bundler::digest::Digest::of(manifest.as_bytes());
    assert_eq!(done["releases"][0]["manifest"], digest.to_string());
    let hooks = succeed(inside("helm").args(["get", "hooks", "web", "--namespace", &site.namespace]));
    assert!(hooks.contains(&format!("{}/docker.io/library/broken:1@sha256:", site.registry)), "{hooks}");
    let kept = receipts(&site);
    assert_eq!((kept.len(), &kept[0]["receipt"]), (1, &done["receipt"]));
    // The file that is carried back is the same, and its signature holds; also for cosign's eyes.
    let carried = site.run(&["receipts", "receipt.json", "--site-key", "site.pub", "--json"]).exits(0).json();
    assert_eq!(carried["receipt"], kept[0]["receipt"]);
    site.run(&["receipts", "receipt.json", "--site-key", "airlock.pub"]).exits(2).says("not trusted");

    let diff = site.install("2.tar", &["--preflight", "--diff", "--set", "label=two"]).exits(0).stdout;
    assert!(diff.contains("release web in inst-life (revision 1 now): 0 objects added, 2 changed"), "{diff}");
    assert!(diff.contains("-  label: one\n+  label: two\n"), "{diff}");
    // Somebody who can write Secrets says that a newer one is there, from elsewhere.
    let mut forged = done["receipt"].clone();
    forged["bundle"]["serial"] = 99.into();
    forged["registry"]["target"] = "evil.example".into();
    // Secrets of the same second are told apart by what is in them.
    forged["time"] = "2099-01-01T00:00:00Z".into();
    site.world.write("forged.json", forged.to_string().as_bytes());
    let file = format!("receipt.json={}", site.world.path("forged.json").display());
    let secret =
        ["create", "secret", "generic", "forged", "--type", "airlock.dev/receipt", "--from-file", &file];
    site.kubectl(&[&secret[..], &["--namespace", &site.namespace]].concat());
    site.install("2.tar", &["--wait"]).exits(2).says("serial 99");
    site.install("2.tar", &["--site-key", "site.key", "--wait", "--set", "label=two"]).exits(0);
    site.install("1.tar", &["--site-key", "site.key"]).exits(2).says("--allow-downgrade");

    let back =
        ["rollback", "web", "--namespace", &site.namespace, "--wait", "--site-key", "site.key", "--json"];
    let back = site.run(&back).exits(0).json();
    assert_eq!((&back["revision"], &back["manifest"]), (&3.into(), &digest.to_string().into()));
    let kept = receipts(&site);
    assert_eq!((kept.len(), &kept[0]["receipt"]["action"]), (3, &"rollback".into()));
    assert_eq!(kept[0]["receipt"]["bundle"], kept[2]["receipt"]["bundle"]);
    site.run(&["rollback", "web", "9", "--namespace", &site.namespace]).exits(1).says("it has no revision 9");

    let gone = site.run(&["uninstall", "web", "--namespace", &site.namespace, "--wait"]).exits(0);
    assert!(gone.stdout.contains("stays: namespace inst-life"), "{}", gone.stdout);
    assert!(site.objects("deployments").is_empty());
    site.run(&["uninstall", "web", "--namespace", &site.namespace]).exits(1).says("no such release");
    let all =
        ["uninstall", "--all", "--bundle", "1.tar", "--key", "airlock.pub", "--namespace", &site.namespace];
    assert!(site.run(&all).exits(0).stdout.contains("was not there"));
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_failed_upgrade_says_why_and_is_rolled_back_where_that_was_asked_for() {
    let site = Site::new("failed");
    site.install("1.tar", &["--wait"]).exits(0);
    let broken = ["--set", "broken=true", "--timeout", "15s"];
    let atomic = site.install("1.tar", &[&broken[..], &["--atomic"]].concat()).exits(4);
    atomic.says("exit code 3").says("rolled back (--atomic): revision 3 runs");
    assert_eq!(site.status(), "deployed");
    let run = site.install("1.tar", &[&broken[..], &["--wait"]].concat()).exits(4);
    run.says("release web: failed at revision 4").says("airlock rollback web -n inst-failed");
    assert_eq!(site.status(), "failed");
    assert_eq!(receipts_unsigned(&site), 1, "a failed install leaves no receipt");
    let image = |site: &Site| {
        site.objects("deployments")[0]["spec"]["template"]["spec"]["containers"][0]["image"].to_string()
    };
    assert!(image(&site).contains("broken:1"), "{}", image(&site));
    site.run(&["rollback", "web", "3", "--namespace", &site.namespace, "--wait"]).exits(0);
    assert!(image(&site).contains("a/app:1"), "{}", image(&site));
}

fn receipts_unsigned(site: &Site) -> usize {
    let run = site.run(&["receipts", "--namespace", &site.namespace, "--json"]).exits(0);
    run.json().as_array().expect("a list").len()
}

/// What a chart looks up in the cluster is not known before: the post-renderer is the last to look.
#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn what_only_the_cluster_makes_a_chart_render_is_refused_too() {
    let site = Site::new("lookup");
    site.kubectl(&["create", "namespace", &site.namespace]);
    site.kubectl(&["create", "configmap", "outside", "--namespace", &site.namespace]);
    let run = site.install("1.tar", &[]).exits(2);
    run.says("Deployment/web spec.template.spec.containers[0].image: evil.example/x:1")
        .says("release web: nothing of it is installed");
    assert!(site.objects("deployments").is_empty());
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_failed_first_install_is_removed_where_that_was_asked_for() {
    let site = Site::new("first");
    let run = site.install("1.tar", &["--set", "broken=true", "--timeout", "15s", "--atomic"]).exits(4);
    run.says("exit code 3").says("removed again (--atomic)");
    assert!(site.objects("deployments").is_empty());
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn an_image_that_the_node_cannot_pull_is_found_before_and_named_after() {
    let site = Site::new("pull");
    // Nothing was pushed.
    site.install("1.tar", &["--no-push"])
        .exits(3)
        .says("does not have: docker.io/library/broken:1, quay.io/a/app:1");
    let proved = site.install("1.tar", &["--no-push", "--skip-preflight", "--prove-pull"]).exits(4);
    proved.says("node ").says("not found").says("push the bundle first");
    let waited =
        site.install("1.tar", &["--no-push", "--skip-preflight", "--wait", "--timeout", "10s"]).exits(4);
    waited.says("ImagePull").says("--prove-pull").says("release web: failed at revision 1");
    assert!(site.objects("pods").iter().all(|pod| pod["metadata"]["generateName"] != "airlock-prove-pull-"));
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn what_the_cluster_does_not_know_or_allow_is_said_before_anything_changes() {
    let site = Site::new("rights");
    site.install("1.tar", &["--set", "kind=Gadget"]).exits(4).says("does not know these kinds: v1 Gadget");
    assert!(!site.kubectl(&["get", "namespaces"]).contains(&site.namespace));

    site.kubectl(&["create", "namespace", &site.namespace]);
    let in_namespace = ["--namespace", &site.namespace];
    site.kubectl(&[&["create", "serviceaccount", "weak"], &in_namespace[..]].concat());
    let account = format!("--serviceaccount={}:weak", site.namespace);
    let role = ["create", "rolebinding", "weak", "--clusterrole=view", &account];
    site.kubectl(&[&role[..], &in_namespace[..]].concat());
    let token = site.kubectl(&[&["create", "token", "weak"], &in_namespace[..]].concat());
    let text = std::fs::read_to_string(kubeconfig()).expect("a kubeconfig");
    let mut weak: Value = serde_saphyr::from_str(&text).expect("YAML");
    weak["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    site.world.write("weak.kubeconfig", weak.to_string().as_bytes());
    let as_weak = |change: &dyn Fn(&mut Value), more: &[&str]| -> Run {
        let mut kubeconfig = weak.clone();
        change(&mut kubeconfig);
        site.world.write("other.kubeconfig", kubeconfig.to_string().as_bytes());
        let mut command = site.install_command("1.tar", more);
        command.env("KUBECONFIG", site.world.path("other.kubeconfig")).output().expect("airlock").into()
    };
    // Helm needs to read Secrets to find its releases.
    as_weak(&|_| {}, &[]).exits(4).says("forbidden");
    let secrets = ["create", "role", "secrets", "--resource=secrets", "--verb=get,list"];
    site.kubectl(&[&secrets[..], &in_namespace[..]].concat());
    let bind = ["create", "rolebinding", "secrets", "--role=secrets", &account];
    site.kubectl(&[&bind[..], &in_namespace[..]].concat());
    let run = as_weak(&|_| {}, &[]).exits(4);
    run.says("create deployments.apps in namespace inst-rights").says("platforms were not compared");
    assert!(site.objects("deployments").is_empty() && site.objects("configmaps").len() == 1);

    // With just the rights that are printed, it goes through.
    let roles = site.install("1.tar", &["--print-role"]).exits(0).stdout;
    site.world.write("roles.json", roles.as_bytes());
    site.kubectl(&["apply", "--filename", &site.world.path("roles.json").display().to_string()]);
    let bind = ["create", "rolebinding", "installer", "--role=airlock-install", &account];
    site.kubectl(&[&bind[..], &in_namespace[..]].concat());
    for binding in ["weak", "secrets"] {
        site.kubectl(&[&["delete", "rolebinding", binding], &in_namespace[..]].concat());
    }
    as_weak(&|_| {}, &["--wait"]).exits(0);

    let wrong = |key: &'static str, value: Value| {
        move |kubeconfig: &mut Value| {
            kubeconfig["users"][0]["user"][key] = value.clone();
        }
    };
    as_weak(&wrong("token", "expired".into()), &[]).exits(4).says("has expired or is another cluster's");
    let cluster =
        |f: fn(&mut Value)| move |kubeconfig: &mut Value| f(&mut kubeconfig["clusters"][0]["cluster"]);
    as_weak(&cluster(|c| drop(c.as_object_mut().and_then(|c| c.remove("certificate-authority")))), &[])
        .exits(4)
        .says("certificate-authority-data");
    as_weak(&cluster(|c| c["server"] = "https://10.42.0.1:1".into()), &[])
        .exits(4)
        .says("Connection refused");
    as_weak(&cluster(|c| c["server"] = "https://nowhere.invalid:1".into()), &[])
        .exits(4)
        .says("nowhere.invalid");
    as_weak(&|_| {}, &["--kube-context", "no"]).exits(4).says("no context \"no\"").says("airlock-cluster");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_helm_that_was_killed_leaves_a_release_that_is_named_and_taken_back() {
    let site = Site::new("killed");
    site.install("1.tar", &["--wait"]).exits(0);
    let mut upgrade = site.install_command("1.tar", &["--set", "broken=true", "--wait"]);
    let child = upgrade.stderr(Stdio::piped()).spawn().expect("airlock");
    until("helm is at work", || site.status() == "pending-upgrade");
    // nsenter has become airlock, whose one child is helm.
    let helm =
        succeed(std::process::Command::new("pgrep").args(["-P", &child.id().to_string(), "-x", "helm"]));
    succeed(std::process::Command::new("kill").args(["-KILL", helm.trim()]));
    let run: Run = child.wait_with_output().expect("airlock").into();
    run.exits(4)
        .says("helm was killed")
        .says("pending-upgrade at revision 2")
        .says("airlock rollback web -n inst-killed");
    site.install("1.tar", &[])
        .exits(4)
        .says("release web is pending-upgrade at revision 2")
        .says("nothing was changed");
    site.run(&["rollback", "web", "--namespace", &site.namespace, "--wait"]).exits(0);
    site.install("1.tar", &["--wait"]).exits(0);
}

/// What is left behind is named as far as it is known, and the next look at the cluster finds it.
#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_cluster_that_goes_away_in_the_middle_is_said_with_what_to_do() {
    let site = Site::new("away");
    site.install("1.tar", &["--wait"]).exits(0);
    let port = free_port().to_string();
    let way = inside("kubectl").args(["proxy", "--port", &port]).stdout(Stdio::null()).spawn();
    let way = Running(way.expect("kubectl proxy"));
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
        "clusters": [{"name": "proxy", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": ""}}],
    });
    site.world.write("proxy.kubeconfig", kubeconfig.to_string().as_bytes());
    let proxied = site.world.path("proxy.kubeconfig");
    until("the proxy answers", || {
        let mut version = inside("kubectl");
        version
            .arg("version")
            .env("KUBECONFIG", &proxied)
            .output()
            .is_ok_and(|output| output.status.success())
    });
    let mut upgrade = site.install_command("1.tar", &["--set", "broken=true", "--wait", "--timeout", "15s"]);
    let child = upgrade.env("KUBECONFIG", &proxied).stderr(Stdio::piped()).spawn();
    until("helm is at work", || site.status() == "pending-upgrade");
    drop(way);
    let run: Run = child.expect("airlock").wait_with_output().expect("airlock").into();
    run.exits(4)
        .says("release web: not known, for the cluster can't be asked")
        .says("when the cluster is back");
    site.install("1.tar", &[])
        .exits(4)
        .says("release web is pending-upgrade at revision 2")
        .says("airlock rollback web");
    site.run(&["rollback", "web", "--namespace", &site.namespace, "--wait"]).exits(0);
    assert_eq!(site.status(), "deployed");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn an_install_that_is_asked_to_stop_has_helm_end_its_work() {
    let site = Site::new("stopped");
    let mut install = site.install_command("1.tar", &["--set", "broken=true", "--wait"]);
    let child = install.stderr(Stdio::piped()).spawn().expect("airlock");
    until("the release is there", || {
        let text = site.kubectl(&["get", "secrets", "--all-namespaces", "--selector", "owner=helm,name=web"]);
        text.contains(&site.namespace)
    });
    crate::parts::signal(&child, "TERM");
    let run: Run = child.wait_with_output().expect("airlock").into();
    run.exits(143).says("stopped by SIGTERM").says("release web: failed at revision 1");
    assert_eq!(site.status(), "failed");
}
