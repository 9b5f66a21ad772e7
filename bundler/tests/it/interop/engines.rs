//! Docker's engine and containerd: images out of the file and out of `airlock serve`.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use super::{AtEnd, BUSYBOX, HELLO_CHART, Served, airlock, carried, part, path, shared, tool, upstream_for};
use crate::world::{Run, World};

/// Tests that put busybox into the Docker engine and take it out again: not at the same time.
pub(super) static BUSYBOX_IN_DOCKER: Mutex<()> = Mutex::new(());
/// Held by a test that imports into containerd's namespace `k8s.io`, and takes everything out again.
pub static K8S_IO: Mutex<()> = Mutex::new(());

pub(super) fn docker(args: &[&str]) -> Run {
    tool(Path::new("/"), "docker", args)
}

pub(super) fn ctr(namespace: &str, args: &[&str]) -> Run {
    let socket = part("AIRLOCK_TEST_CONTAINERD");
    tool(Path::new("/"), "ctr", &[&["-a", &socket, "-n", namespace], args].concat())
}

/// The first two columns that matter of `ctr images ls`: name and digest.
pub fn listed(namespace: &str) -> Vec<(String, String)> {
    let table = ctr(namespace, &["images", "ls"]).exits(0).stdout;
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, digest) = (words.next()?, words.nth(1)?);
        Some((name.into(), digest.into()))
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// Takes images out of containerd at the end, with their content.
pub struct Imported<'a>(pub &'a str);

impl Drop for Imported<'_> {
    fn drop(&mut self) {
        for (name, _) in listed(self.0) {
            let _ = ctr(self.0, &["images", "rm", "--sync", &name]);
        }
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn docker_loads_and_runs_an_image_of_a_bundle_with_a_chart_in_it() {
    let _alone = BUSYBOX_IN_DOCKER.lock();
    let world = World::new();
    let name = "load.example/interop/box:v1";
    world.spec(&format!(
        "[[chart]]\npath = \"{HELLO_CHART}\"\nset = [\"image.registry=load.example\", \
         \"image.repository=interop/box\", \"image.tag=v1\", \"redis.enabled=false\", \"externalRedis.host=r\"]\n\
         [[image]]\nref = \"{name}\"\nfrom = \"docker://{BUSYBOX}\"\n"
    ));
    airlock(&world, &["lock"]).exits(0);
    airlock(&world, &["build", "--unsigned", "--output", "app.tar"]).exits(0);
    let inspected = world.run(&["inspect", "app.tar", "--json"]).exits(0).json();
    assert_eq!(inspected["manifest"]["charts"].as_array().map(Vec::len), Some(1));
    assert_ne!(docker(&["image", "inspect", name]).code, 0, "{name} is in the engine already");

    let _gone = AtEnd("docker", &["image", "rm", "--force", name]);
    let said = docker(&["load", "--input", &path(&world, "app.tar")]).exits(0).stdout;
    assert_eq!(said.lines().collect::<Vec<_>>(), [format!("Loaded image: {name}")]);
    let run = ["run", "--rm", "--network", "none", name, "/bin/busybox", "echo", "out of the bundle"];
    assert_eq!(docker(&run).exits(0).stdout, "out of the bundle\n");
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn docker_pulls_and_runs_an_image_from_serve_by_tag_and_by_digest() {
    let _alone = BUSYBOX_IN_DOCKER.lock();
    let served = Served::start(shared(), "app.tar");
    let repository = format!("{}/docker.io/library/busybox", served.host);
    let digest = upstream_for(BUSYBOX, "amd64");
    for name in [format!("{repository}:1.36"), format!("{repository}@{digest}")] {
        let remove = ["image", "rm", "--force", &name];
        let _gone = AtEnd("docker", &remove);
        let said = docker(&["pull", &name]).exits(0).stdout;
        assert!(said.contains(&format!("Digest: {digest}\n")), "{said}");
        let digests = ["image", "inspect", "--format", "{{json .RepoDigests}}", &name];
        let digests = docker(&digests).exits(0).stdout;
        assert!(digests.contains(&format!("\"{repository}@{digest}\"")), "{digests}");
        let run = ["run", "--rm", "--network", "none", &name, "/bin/busybox", "echo", "pulled"];
        assert_eq!(docker(&run).exits(0).stdout, "pulled\n");
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn containerd_imports_every_image_of_a_bundle_with_charts_in_it() {
    let namespace = "k8s.io";
    let _alone = K8S_IO.lock();
    let _gone = Imported(namespace);
    assert_eq!(listed(namespace), [], "images of others");
    ctr(namespace, &["images", "import", &path(shared(), "app.tar")]).exits(0);
    let mut expected = carried();
    expected.sort();
    assert_eq!(listed(namespace), expected);
    // Whole, and unpacked for this machine: a kubelet could start them.
    let checked = ctr(namespace, &["images", "check"]).exits(0).stdout;
    let whole = |line: &&str| line.contains("complete") && line.trim_end().ends_with("true");
    assert_eq!(checked.lines().filter(whole).count(), expected.len(), "{checked}");
}

/// `hosts.toml` as nodes have it: no other server is asked, so that an answer can only be ours.
fn mirror(hosts: &Path, host: &str, url: &str, override_path: bool) {
    let dir = hosts.join(host);
    fs::create_dir_all(&dir).expect("a directory");
    let rest = format!("capabilities = [\"pull\", \"resolve\"]\noverride_path = {override_path}\n");
    let text = format!("server = \"{url}\"\noverride_path = {override_path}\n[host.\"{url}\"]\n{rest}");
    fs::write(dir.join("hosts.toml"), text).expect("hosts.toml");
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn containerd_pulls_by_the_sources_names_with_serve_as_its_mirror() {
    let namespace = "airlock-mirror-test";
    let served = Served::start(shared(), "app.tar");
    let images: Vec<_> = carried().into_iter().filter(|(name, _)| name.contains("/busybox:1.36")).collect();
    assert_eq!(images.len(), 2, "{images:?}");
    for override_path in [false, true] {
        let hosts = tempfile::tempdir().expect("a directory");
        for host in ["docker.io", "registry.example:5000"] {
            let path = if override_path { format!("/v2/{}", host.replace(':', "_")) } else { String::new() };
            mirror(hosts.path(), host, &format!("http://{}{path}", served.host), override_path);
        }
        let _gone = Imported(namespace);
        for (name, _) in &images {
            let hosts = hosts.path().display().to_string();
            ctr(namespace, &["images", "pull", "--hosts-dir", &hosts, name]).exits(0);
        }
        assert_eq!(listed(namespace), images);
    }
}
