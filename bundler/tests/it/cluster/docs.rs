//! The commands of AIRGAP.md that need a cluster, run as they stand there. Only the registry has another name.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::kubernetes::Cluster;
use crate::docs::{Document, assert_all_ended_well, hello, is_on_cluster};
use crate::interop::part;
use crate::world::{PASSWORD, Run, World};

/// Registries that the document names.
const NAMES: [&str; 2] = ["registry.site.example:5000/mirror", "registry.site.example/mirror"];

/// The site's directory, and a `kubectl` for it.
fn prepare(world: &World) {
    fs::copy(env!("CARGO_BIN_EXE_airlock"), world.path("airlock")).expect("airlock");
    let program = format!("#!/bin/sh\nexec '{}' kubectl \"$@\"\n", part("AIRLOCK_TEST_KUBECTL"));
    world.write("bin/kubectl", program.as_bytes());
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(world.path("bin/kubectl"), mode).expect("made a program");
    world.keys("site");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn airgap_commands_run_as_written() {
    let document = Document::read("AIRGAP.md");
    let cluster = Cluster::take();
    let _namespace = cluster.namespace("hello");
    let connected = hello(&document);
    let world = &connected.world;
    let commands = document.commands();
    let first = |start: &str| commands.iter().find(|c| c.text.starts_with(start)).expect(start);
    for start in ["airlock keys generate --name airlock", "airlock lock", "airlock build --key"] {
        connected.run(first(start)).exits(0);
    }
    prepare(world);
    let registry = cluster.registry();
    let run = |text: &str| -> Run {
        let host = format!("{}/mirror", registry.host);
        let text = NAMES.iter().fold(text.to_owned(), |text, name| text.replace(name, &host));
        let path = format!("{}:{}", world.path("bin").display(), part("PATH"));
        let mut shell = cluster.command("sh", &["-ec", &text]);
        shell.current_dir(world.path("")).env("PATH", path).env_remove("HOME");
        shell.env("AIRLOCK_PASSWORD", PASSWORD).env("AIRLOCK_PLAIN_HTTP", &registry.host);
        shell.output().expect("sh").into()
    };

    let mut on_cluster: Vec<_> = commands.iter().filter(|c| is_on_cluster(&c.text)).collect();
    let install = first("./airlock install").text.replace(" --dry-run", "");
    // A release goes back to a revision before; what is uninstalled is gone for the commands after it.
    run(&format!("{install} --site-key site.key --wait")).exits(0);
    on_cluster.sort_by_key(|command| command.text.contains(" uninstall "));
    assert!(on_cluster.len() >= 7, "{on_cluster:?}");
    assert_all_ended_well(on_cluster.into_iter().map(|command| (command.clone(), run(&command.text))));
    cluster.kubectl(&["--namespace", "kube-system", "delete", "configmap", "airlock-images-hello"]).exits(0);
}
