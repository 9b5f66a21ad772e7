//! The Kubernetes of one node that `cargo xtask test --cluster` brings up, with registries beside it: it has no way out, so what
//! runs there can only have come out of a bundle.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::interop::{part, path};
use crate::parts::Running;
use crate::world::{Run, World};

/// How long pods may take to be ready, and to be gone.
pub const PATIENCE: &str = "120s";

/// Held for reading by tests that have only a namespace of it, and for writing by those that want it alone.
static ALONE: RwLock<()> = RwLock::new(());

/// The cluster is not for one test alone while this is kept.
pub fn beside_others() -> RwLockReadGuard<'static, ()> {
    ALONE.read().unwrap_or_else(PoisonError::into_inner)
}

/// The cluster, for one test alone: it may start the node's parts again.
pub struct Cluster {
    _alone: RwLockWriteGuard<'static, ()>,
}

impl Cluster {
    pub fn take() -> Self {
        Self { _alone: ALONE.write().unwrap_or_else(PoisonError::into_inner) }
    }

    /// A program in the cluster's network, with an administrator's kubeconfig.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", part("AIRLOCK_TEST_NETNS"))).arg("--").arg(program).args(args);
        command
            .env("KUBECONFIG", part("AIRLOCK_TEST_KUBECONFIG"))
            .env_remove("HTTPS_PROXY")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, program: &str, args: &[&str]) -> Run {
        self.command(program, args).output().expect(program).into()
    }

    /// The kubectl of the node's own program.
    pub fn kubectl(&self, args: &[&str]) -> Run {
        self.run(&part("AIRLOCK_TEST_KUBECTL"), &[&["kubectl"], args].concat())
    }

    /// An object as the API server has it.
    pub fn get(&self, namespace: &str, what: &[&str]) -> Value {
        self.kubectl(&[&["--namespace", namespace, "get", "--output", "json"], what].concat()).exits(0).json()
    }

    pub fn helm(&self, namespace: &str, args: &[&str]) -> Run {
        self.run("helm", &[&["--namespace", namespace], args].concat())
    }

    /// airlock as a field engineer runs it: in a directory with the bundle and the key, and no HOME.
    pub fn airlock(&self, world: &World, args: &[&str]) -> Run {
        let as_there = world.command(args);
        let mut command = self.command(env!("CARGO_BIN_EXE_airlock"), args);
        command.current_dir(world.path("")).env_remove("HOME");
        command.envs(as_there.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.output().expect("airlock").into()
    }

    /// A namespace of a test's own, removed with all that is in it when it is dropped.
    pub fn namespace(&self, name: &'static str) -> Namespace<'_> {
        let namespace = Namespace(self, name);
        namespace.remove();
        namespace
    }

    /// The pods of a namespace, once all its workloads are up.
    pub fn pods(&self, namespace: &str) -> Vec<Value> {
        for kind in ["deployments", "statefulsets"] {
            for object in self.get(namespace, &[kind])["items"].as_array().expect("a list") {
                let name = format!("{kind}/{}", object["metadata"]["name"].as_str().expect("a name"));
                let timeout = format!("--timeout={PATIENCE}");
                let run = self.kubectl(&["--namespace", namespace, "rollout", "status", &name, &timeout]);
                if run.code != 0 {
                    let pods = self.kubectl(&["--namespace", namespace, "describe", "pods"]).stdout;
                    unreachable!("{name}: {}{}\n{pods}", run.stdout, run.stderr);
                }
            }
        }
        let pods = self.get(namespace, &["pods"]);
        let pods = pods["items"].as_array().expect("a list").iter();
        let goes = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
        // What helm's tests leave behind has done its work.
        pods.filter(|pod| !goes(pod) && pod["status"]["phase"] != "Succeeded").cloned().collect()
    }

    /// What a Service of a namespace answers to a GET of `/`, without the last newline.
    pub fn greeting(&self, namespace: &str, service: &str) -> String {
        let address = self.get(namespace, &["service", service]);
        let address = address["spec"]["clusterIP"].as_str().expect("an address").to_owned();
        let url = format!("http://{address}/");
        self.run("curl", &["--silent", "--fail", "--noproxy", "*", "--max-time", "10", &url])
            .exits(0)
            .stdout
            .trim_end()
            .into()
    }

    /// A registry of CNCF distribution in the cluster's network, at an address that the node reaches.
    pub fn registry(&self) -> Registry {
        let dir = tempfile::tempdir().expect("a directory");
        let host = self.free_address();
        let config = dir.path().join("config.yml");
        let content = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n",
            dir.path().join("data").display()
        );
        fs::write(&config, content).expect("written");
        let config = config.display().to_string();
        let child = self.command("docker-registry", &["serve", &config]).stderr(Stdio::null()).spawn();
        self.listening(child.expect("docker-registry"), host, dir)
    }

    /// `airlock serve` of a bundle, in the cluster's network.
    pub fn serve(&self, world: &World, bundle: &str) -> Registry {
        let host = self.free_address();
        let (bundle, key) = (path(world, bundle), path(world, "airlock.pub"));
        let args = ["serve", &bundle, "--key", &key, "--listen", &host];
        let mut command = self.command(env!("CARGO_BIN_EXE_airlock"), &args);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("airlock");
        self.listening(child, host, tempfile::tempdir().expect("a directory"))
    }

    /// An address of the node with a port that nothing listens at: they are counted, for nobody else is there.
    fn free_address(&self) -> String {
        static NEXT: Mutex<u16> = Mutex::new(0);
        let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
        *next += 1;
        // Below those that the kernel gives away, and another one in each run: a node remembers what it has pulled.
        let port = 20_000 + (std::process::id() % 1000) as u16 * 12 + *next;
        format!("{}:{port}", part("AIRLOCK_TEST_NODE_ADDRESS"))
    }

    fn listening(&self, child: Child, host: String, dir: tempfile::TempDir) -> Registry {
        let process = Running(child);
        let url = format!("http://{host}/v2/");
        let answers =
            || self.run("curl", &["--silent", "--noproxy", "*", "--output", "/dev/null", &url]).code == 0;
        eventually(&format!("something answers at {url}"), answers);
        let told = format!("[host.\"http://{host}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        let hosts = Hosts::write(&host, &told);
        Registry { _process: process, _hosts: hosts, _dir: dir, host }
    }
}

/// A namespace of a test.
pub struct Namespace<'a>(&'a Cluster, &'static str);

impl Namespace<'_> {
    fn remove(&self) {
        let timeout = format!("--timeout={PATIENCE}");
        let run = self.0.kubectl(&["delete", "namespace", self.1, "--ignore-not-found", &timeout]);
        if !std::thread::panicking() {
            run.exits(0);
        }
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A registry that the node pulls from over plain HTTP, for it is told so.
pub struct Registry {
    _process: Running,
    _hosts: Hosts,
    _dir: tempfile::TempDir,
    /// `ADDRESS:PORT`.
    pub host: String,
}

/// What containerd is told about a registry, as long as this lives.
pub struct Hosts(PathBuf);

impl Hosts {
    pub fn write(registry: &str, content: &str) -> Self {
        let dir = PathBuf::from(part("AIRLOCK_TEST_CERTS_D")).join(registry);
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("hosts.toml"), content).expect("written");
        Self(dir)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits until something holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
