//! `airlock audit` on a real cluster.

use std::fs;
use std::process::{Command, Stdio};

use super::site::{Site, kubeconfig};
use crate::parts::Tmpfs;
use crate::world::Run;

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn what_was_signed_is_told_from_what_was_not() {
    let site = Site::new("audit");
    site.install("1.tar", &["--wait", "--set", "replicas=2"]).exits(0);
    let audit = |bundle: &str, more: &[&str]| {
        let args = ["audit", bundle, "--key", "airlock.pub", "--namespace", &site.namespace];
        site.run(&[&args[..], more].concat())
    };
    let clean = audit("1.tar", &["--json"]).exits(0).json();
    assert_eq!(
        (&clean["clean"], &clean["signed"], &clean["foreign"]),
        (&true.into(), &2.into(), &0.into()),
        "{clean}"
    );
    // Another version of the bundle has other content under the same names.
    let other = audit("2.tar", &[]).exits(2);
    assert!(
        other.stdout.contains("it has the name of quay.io/a/app:1, and other content"),
        "{}",
        other.stdout
    );

    // Content that the second bundle has, and the first has not, under a name of the site.
    let push = [
        "push",
        "2.tar",
        "--registry",
        &site.registry,
        "--key",
        "airlock.pub",
        "--plain-http",
        &site.registry,
    ];
    site.run(&push).exits(0);
    let image = format!("{}/quay.io/a/app:1", site.registry);
    let image = format!("--image={image}");
    let namespace = ["--namespace", &site.namespace];
    site.kubectl(
        &[&["run", "stray", &image, "--image-pull-policy=Always", "--command", "/app"], &namespace[..]]
            .concat(),
    );
    site.kubectl(
        &[&["wait", "pod/stray", "--for=condition=Ready", "--timeout=60s"], &namespace[..]].concat(),
    );
    site.kubectl(&[&["run", "waiting", "--image=nowhere.invalid/x:1"], &namespace[..]].concat());
    let foreign = audit("1.tar", &[]).exits(2);
    assert!(foreign.stdout.contains("foreign  inst-audit/stray stray"), "{}", foreign.stdout);
    assert!(foreign.stdout.contains("unknown  inst-audit/waiting waiting"), "{}", foreign.stdout);
    assert!(foreign.stdout.contains("2 as signed in app 1.0.0, 1 foreign, 1 unknown"), "{}", foreign.stdout);
}

/// No CA files, no /etc, no HOME, nothing to write to.
#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn an_empty_root_reaches_the_cluster() {
    let site = Site::new("bare");
    site.install("1.tar", &["--wait"]).exits(0);
    let root = Tmpfs::mount("size=256m");
    fs::copy(env!("CARGO_BIN_EXE_airlock"), root.path().join("airlock")).expect("copied");
    for name in ["1.tar", "airlock.pub"] {
        fs::copy(site.world.path(name), root.path().join(name)).expect("copied");
    }
    // The authority's certificate as data: there is no such file in there.
    let flat = site.kubectl(&["config", "view", "--raw", "--flatten", "--output", "json"]);
    let mut config: serde_json::Value = serde_json::from_str(&flat).expect("JSON");
    fs::write(root.path().join("kubeconfig"), config.to_string()).expect("written");
    let cluster = &mut config["clusters"][0]["cluster"];
    *cluster = serde_json::json!({"server": cluster["server"]});
    fs::write(root.path().join("no-ca"), config.to_string()).expect("written");
    config["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = true.into();
    fs::write(root.path().join("insecure"), config.to_string()).expect("written");
    root.make_read_only();
    let netns = std::env::var("AIRLOCK_TEST_NETNS").expect("a network");
    let audit = |kubeconfig: Option<&str>| -> Run {
        let mut command = Command::new("/usr/bin/nsenter");
        command.env_clear().arg(format!("--net={netns}")).arg("/usr/sbin/chroot").arg(root.path());
        command.envs(kubeconfig.map(|name| ("KUBECONFIG", format!("/{name}"))));
        command.args(["/airlock", "audit", "1.tar", "--key", "airlock.pub", "--namespace", &site.namespace]);
        command.stdin(Stdio::null()).output().expect("chroot").into()
    };
    assert!(kubeconfig().exists());
    audit(Some("kubeconfig")).exits(0);
    audit(Some("insecure")).exits(0);
    audit(Some("no-ca")).exits(4).says("certificate-authority-data");
    audit(Some("absent")).exits(4).says("KUBECONFIG");
    audit(None).exits(4).says("neither KUBECONFIG nor ~/.kube/config");
}
