//! helm in the bundle: said to be missing while it can be put there, and found by everything that runs it.

use super::{POD, SITE, built, helm_file, with_chart};
use crate::world::{Run, World};

/// A stand-in for helm that knows its version only.
const HELM: &[u8] = b"#!/bin/sh\necho v4.2.4\n";

/// The platform of this machine.
fn here() -> &'static str {
    if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" }
}

fn with_helm(platform: &str, more: &str) -> World {
    let world = with_chart(&[("templates/a.yaml", POD)]);
    let file = helm_file(&world, "helm.file", platform, HELM);
    let spec = std::fs::read_to_string(world.path("bundle.toml")).expect("a spec");
    world.write("bundle.toml", format!("{more}{spec}{file}").as_bytes());
    world
}

/// Runs airlock where there is no helm and no cluster.
fn alone(world: &World, args: &[&str]) -> Run {
    let mut command = world.command(args);
    command.env("PATH", "/nonexistent").env("KUBECONFIG", "/nonexistent").env_remove("AIRLOCK_HELM");
    command.output().expect("airlock").into()
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_bundle_without_helm_is_warned_of() {
    let warning = "the bundle has charts and no helm for linux/amd64";
    let world = with_chart(&[("templates/a.yaml", POD)]);
    world.run(&["lock"]).exits(0).says(warning);
    world.run(&["build", "--key", "airlock.key"]).exits(0).says(warning);
    for (platform, more, is_warned) in [
        ("linux/amd64", "", false),
        ("linux/arm64", "", true),
        ("linux/arm64", "without_helm = true\n", false),
    ] {
        let world = with_helm(platform, more);
        let run = world.run(&["lock"]).exits(0);
        assert_eq!(run.stderr.contains(warning), is_warned, "{platform} {more}: {}", run.stderr);
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn whatever_runs_helm_takes_the_bundles() {
    let world = with_helm(here(), "");
    built(&world);
    for args in [
        &["uninstall", "--all", "app.tar", "--key", "airlock.pub"][..],
        &["uninstall", "app", "--bundle", "app.tar", "--key", "airlock.pub"],
        &["rollback", "app", "--bundle", "app.tar", "--key", "airlock.pub"],
    ] {
        let run = alone(&world, args).exits(4);
        assert!(!run.stderr.contains("running helm"), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains("kubeconfig") || run.stderr.contains("KUBECONFIG"), "{}", run.stderr);
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_helm_for_another_platform_is_named() {
    let other = if here() == "linux/amd64" { "linux/arm64" } else { "linux/amd64" };
    let world = with_helm(other, "");
    built(&world);
    for args in [
        &["uninstall", "--all", "app.tar", "--key", "airlock.pub"][..],
        &["render", "app.tar", "--key", "airlock.pub", "--registry", SITE],
    ] {
        let says = format!("the bundle carries helm for {other}, and this machine is {}", here());
        alone(&world, args).exits(4).says(&says);
    }
}
