//! A site in the cluster's network: a registry that the node reaches, a namespace, bundles of a small chart, and airlock.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::RwLockReadGuard;

use serde_json::Value;

use crate::parts::{Running, free_port, succeed};
use crate::world::{PASSWORD, Run, World};

/// x86-64 code that does nothing for ever: `pause()` in a loop.
const SLEEP: &[u8] = &[0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
/// `exit(3)`.
const EXIT_3: &[u8] = &[0xbf, 3, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];

/// A variable that `cargo xtask test --cluster` sets.
fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| unreachable!("{name} is not set: cargo xtask test --cluster"))
}

/// What a test has of the cluster.
pub struct Site {
    pub world: World,
    pub namespace: String,
    /// `ADDRESS:PORT`, as the node reaches it.
    pub registry: String,
    certs: PathBuf,
    _registry: Running,
    _beside: RwLockReadGuard<'static, ()>,
}

impl Site {
    /// With a namespace called after the test, and bundles 1 and 2, the second with another program.
    pub fn new(name: &str) -> Self {
        let beside = super::kubernetes::beside_others();
        let world = World::new();
        let port = free_port();
        let registry = format!("{}:{port}", setting("AIRLOCK_TEST_NODE_ADDRESS"));
        let data = world.path("registry");
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp:\n  addr: {registry}\n",
            data.display()
        );
        world.write("registry.yml", config.as_bytes());
        let program = inside("docker-registry")
            .arg("serve")
            .arg(world.path("registry.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let program = Running(program.expect("docker-registry"));
        let certs = PathBuf::from(setting("AIRLOCK_TEST_CERTS_D")).join(&registry);
        std::fs::create_dir_all(&certs).expect("certs.d");
        let hosts = format!("server = \"http://{registry}\"\n[host.\"http://{registry}\"]\n");
        std::fs::write(certs.join("hosts.toml"), hosts).expect("hosts.toml");
        let namespace = format!("inst-{name}");
        let site = Self { world, namespace, registry, certs, _registry: program, _beside: beside };
        site.kubectl(&["delete", "namespace", &site.namespace, "--ignore-not-found", "--wait=true"]);
        site.world.keys("airlock");
        site.world.keys("site");
        site.bundle("1", SLEEP);
        site.bundle("2", &[SLEEP, b"two"].concat());
        site
    }

    /// A bundle `VERSION.tar` of the chart, its program, and one that ends at once.
    fn bundle(&self, version: &str, code: &[u8]) {
        let world = &self.world;
        world.image("app", &["linux/amd64"], &program(code));
        world.image("broken", &["linux/amd64"], &program(EXIT_3));
        world.write(
            "web/Chart.yaml",
            format!("apiVersion: v2\nname: web\nversion: {version}.0.0\n").as_bytes(),
        );
        world.write("web/values.yaml", b"broken: false\nreplicas: 1\nlabel: one\nkind: ConfigMap\n");
        world.write("web/templates/web.yaml", CHART.as_bytes());
        world.spec(
            "[[chart]]\npath = \"web\"\n[[image]]\nref = \"quay.io/a/app:1\"\nfrom = \"oci:app\"\n\
             [[image]]\nref = \"broken:1\"\nfrom = \"oci:broken\"\n",
        );
        world.run(&["lock", "--update"]).exits(0);
        world.build(&format!("{version}.tar"));
    }

    /// `airlock VERB BUNDLE` with key, registry and namespace.
    pub fn install(&self, bundle: &str, more: &[&str]) -> Run {
        self.install_command(bundle, more).output().expect("airlock").into()
    }

    pub fn install_command(&self, bundle: &str, more: &[&str]) -> Command {
        let mut command = self.airlock(&["install", bundle, "--key", "airlock.pub"]);
        command.args(["--registry", &self.registry, "--plain-http", &self.registry]);
        command.args(["--namespace", &self.namespace]).args(more);
        command
    }

    /// Airlock inside the cluster's network.
    pub fn airlock(&self, args: &[&str]) -> Command {
        let mut command = inside(env!("CARGO_BIN_EXE_airlock"));
        command
            .args(args)
            .current_dir(self.world.path(""))
            .env("AIRLOCK_PASSWORD", PASSWORD)
            .env("DOCKER_CONFIG", self.world.path("docker"))
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Run {
        self.airlock(args).output().expect("airlock").into()
    }

    /// What kubectl prints; it must succeed.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        succeed(inside("kubectl").args(args))
    }

    /// Objects of a kind in the namespace.
    pub fn objects(&self, kind: &str) -> Vec<Value> {
        let text = self.kubectl(&["get", kind, "--namespace", &self.namespace, "--output", "json"]);
        let list: Value = serde_json::from_str(&text).expect("a list");
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Status of the release's last revision, as helm says it.
    pub fn status(&self) -> String {
        let args = ["history", "web", "--namespace", &self.namespace, "--max", "1", "--output", "json"];
        let history: Value = serde_json::from_str(&succeed(inside("helm").args(args))).expect("JSON");
        history[0]["status"].as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let args = ["delete", "namespace", &self.namespace, "--ignore-not-found", "--wait=false"];
        let _ = inside("kubectl").args(args).stdout(Stdio::null()).status();
        let _ = std::fs::remove_dir_all(&self.certs);
    }
}

/// A program in the cluster's network.
pub fn inside(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", setting("AIRLOCK_TEST_NETNS"))).arg(program);
    command.env("KUBECONFIG", kubeconfig());
    command
}

pub fn kubeconfig() -> PathBuf {
    Path::new(&setting("AIRLOCK_TEST_KUBECONFIG")).into()
}

/// An ELF file (64 bit, one segment) with this code: the smallest thing that a container can run.
fn program(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    let size = 120 + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [BASE + 120, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x05\0\0\0");
    for word in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

/// A deployment that can be made to fail, an object of any kind, and a hook.
const CHART: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: {{ .Values.replicas }}
  minReadySeconds: 3
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web, label: {{ .Values.label }}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: app
        image: {{ if .Values.broken }}broken:1{{ else if lookup "v1" "ConfigMap" .Release.Namespace "outside" }}evil.example/x:1{{ else }}quay.io/a/app:1{{ end }}
        command: [/app]
---
apiVersion: v1
kind: {{ .Values.kind }}
metadata:
  name: settings
data: {label: {{ .Values.label }}}
---
apiVersion: v1
kind: Pod
metadata:
  name: try
  annotations: {helm.sh/hook: test}
spec:
  containers:
  - {name: try, image: broken:1}
"#;
