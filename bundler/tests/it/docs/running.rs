//! The documented commands that need no cluster: on the connected side with the tests' upstream registry and Docker engine, at
//! the site in a network of its own, where `registry.site.example` is a registry with a certificate.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use bundler::digest::Digest;

use super::{Document, Documented};
use crate::interop::{HELLO, REDIS, engines, part, upstream_for};
use crate::parts::{Isolation, Registry, Running, succeed};
use crate::world::{PASSWORD, Run, World};

/// Verbs of airlock, and programs, that need a cluster; `cluster::docs` runs them.
const ON_CLUSTER: [&str; 6] = ["rollback", "uninstall", "audit", "receipts", "policy", "kubectl"];

/// Commands that are not run here, each with the place where the same is tried.
const ELSEWHERE: [(&str, &str); 6] = [
    ("cargo xtask demo", "CI runs it"),
    ("cargo xtask test", "it runs this test"),
    ("cargo build --release --package bundler", "the demo builds it so"),
    ("docker compose up --build --wait", "cargo xtask images runs the compose file"),
    (
        "helm install demo charts/hello --namespace hello --create-namespace",
        "its image is on Docker Hub; charts:: renders it",
    ),
    ("docker login registry.site.example:5000", "interop::store logs in"),
];

/// Says whether a command needs a cluster.
pub fn is_on_cluster(text: &str) -> bool {
    let mut words = text.split(' ').skip_while(|word| word.ends_with("airlock"));
    let verb = words.next().unwrap_or_default();
    ON_CLUSTER.contains(&verb)
        || (verb == "install" && text.contains("airlock ") && !text.contains("--dry-run"))
}

fn is_elsewhere(text: &str) -> bool {
    ELSEWHERE.iter().any(|(command, _)| *command == text)
}

/// The connected side: a directory, with what the documents take for granted.
pub struct Connected {
    pub world: World,
    mirrors: String,
}

impl Connected {
    pub fn run(&self, command: &Documented) -> Run {
        let mut shell = Command::new("sh");
        shell.args(["-ec", &command.text]).envs(self.environment()).current_dir(self.world.path(""));
        shell.stdin(Stdio::null()).output().expect("sh").into()
    }

    fn environment(&self) -> Vec<(&str, String)> {
        let airlock = PathBuf::from(env!("CARGO_BIN_EXE_airlock"));
        let path = format!("{}:{}", airlock.parent().expect("a directory").display(), part("PATH"));
        vec![
            ("PATH", path),
            ("XDG_CACHE_HOME", self.world.path("cache").display().to_string()),
            ("AIRLOCK_PASSWORD", PASSWORD.into()),
            ("COSIGN_PASSWORD", PASSWORD.into()),
            ("AIRLOCK_MIRRORS", self.mirrors.clone()),
            ("DOCKER_HOST", part("AIRLOCK_TEST_DOCKER_HOST")),
            ("CONTAINERD_ADDRESS", part("AIRLOCK_TEST_CONTAINERD")),
        ]
    }

    /// Puts helm here, and returns its checksum.
    fn helm(&self) -> String {
        let helm = succeed(Command::new("sh").args(["-c", "command -v helm"]));
        fs::copy(helm.trim(), self.world.path("helm")).expect("helm");
        Digest::of(&fs::read(self.world.path("helm")).expect("helm")).hex()
    }

    /// A key pair as openssl makes it.
    fn openssl_keys(&self, key: &str, public: &str) {
        let (key, public) = (self.world.path(key), self.world.path(public));
        let curve = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"];
        succeed(Command::new("openssl").args(curve).arg(&key));
        succeed(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public));
    }

    /// A key pair as cosign makes it: `NAME.key` and `NAME.pub`.
    fn cosign_keys(&self, name: &str) {
        let mut cosign = Command::new("cosign");
        cosign.args(["generate-key-pair", "--output-key-prefix", name]).envs(self.environment());
        succeed(cosign.current_dir(self.world.path("")));
    }
}

/// A chart that runs two images.
const SHOP: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: shop}\nspec:\n  containers:\n\
                    \x20   - {name: api, image: registry.example.com/shop/api:1.4.0}\n\
                    \x20   - {name: web, image: quay.io/acme/web:1.0}\n";

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn readme_commands_run_as_written() {
    let document = Document::read("README.md");
    let registry = Registry::start();
    let mirrors = format!("quay.io={}/quay.io", registry.host());
    let connected = Connected { world: World::new(), mirrors };
    let world = &connected.world;
    let spec = document.block("toml", 0).replace('…', &connected.helm());
    world.write("bundle.toml", spec.as_bytes());
    world.write("charts/shop/Chart.yaml", b"apiVersion: v2\nname: shop\nversion: 1.4.0\n");
    world.write("charts/shop/templates/pod.yaml", SHOP.as_bytes());
    world.write("site-defaults.yaml", b"{}\n");
    succeed(Command::new("docker").args(["tag", HELLO, "shop-api:latest"]).envs(connected.environment()));
    connected.cosign_keys("acme");
    signed_upstream(&connected, &registry.host());

    let commands = document.commands();
    let run: Vec<_> = commands.iter().filter(|c| !is_elsewhere(&c.text)).collect();
    assert_eq!(run.len(), 3, "{run:?}");
    assert_all_ended_well(run.into_iter().map(|command| (command.clone(), connected.run(command))));
    assert!(world.path("shop-1.4.0.tar").is_file());
    let verify = ["verify", "shop-1.4.0.tar", "--key", "airlock.pub"];
    world.run(&verify).exits(0);
}

/// Asserts that every command exits with 0; names all that do not.
#[track_caller]
pub fn assert_all_ended_well(runs: impl IntoIterator<Item = (Documented, Run)>) {
    let failed = runs.into_iter().filter(|(_, run)| run.code != 0);
    let failed: Vec<_> =
        failed.map(|(command, run)| format!("{command}\n{}{}", run.stdout, run.stderr)).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Puts `quay.io/acme/web:1.0` into a registry, and signs it.
fn signed_upstream(connected: &Connected, host: &str) {
    let from = format!("docker://{}/quay.io/example/web:1.0.0", part("AIRLOCK_TEST_UPSTREAM"));
    let image = format!("{host}/quay.io/acme/web:1.0");
    let copy = ["copy", "--src-tls-verify=false", "--dest-tls-verify=false", &from];
    succeed(Command::new("skopeo").args(copy).arg(format!("docker://{image}")));
    let resolve = ["resolve", "--plain-http", &image];
    let digest = succeed(Command::new("oras").args(resolve));
    let image = format!("{host}/quay.io/acme/web@{}", digest.trim());
    let offline = ["--yes", "--tlog-upload=false", "--use-signing-config=false", "--allow-http-registry"];
    let mut sign = Command::new("cosign");
    sign.arg("sign").args(offline).args(["--key", "acme.key", &image]).envs(connected.environment());
    succeed(sign.current_dir(connected.world.path("")));
}

/// The site: a network with nothing but loopback, where `registry.site.example` has a name and a certificate.
struct Site {
    network: Isolation,
    dir: PathBuf,
    _registry: Running,
    /// The `serve` that was started last.
    serving: Option<Running>,
}

const NAME: &str = "registry.site.example";
const LOGIN: (&str, &str) = ("ann", "open sesame");

impl Site {
    fn new(world: &World) -> Self {
        let (network, dir) = (Isolation::named(NAME), world.path("site"));
        // What `/var/lib` is there.
        fs::create_dir_all(dir.join("lib/airlock")).expect("a directory");
        fs::create_dir_all(dir.join("home/.docker")).expect("a directory");
        let login = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", LOGIN.0, LOGIN.1));
        let config = format!(r#"{{"auths": {{"{NAME}:5000": {{"auth": "{login}"}}}}}}"#);
        fs::write(dir.join("home/.docker/config.json"), config).expect("written");
        let subject = ["-subj", "/CN=site", "-addext", &format!("subjectAltName=DNS:{NAME}")];
        let files = ["-keyout", "registry.key", "-out", "ca.pem"];
        let make = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let mut openssl = Command::new("openssl");
        succeed(openssl.args(make).args(["-days", "2"]).args(subject).args(files).current_dir(&dir));
        let at = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:443', tls: {{certificate: {}, key: {}}}}}\n",
            at("registry"),
            at("ca.pem"),
            at("registry.key")
        );
        fs::write(dir.join("registry.yml"), config).expect("written");
        let mut registry = network.command("docker-registry");
        registry.args(["serve", &at("registry.yml")]).stdout(Stdio::null()).stderr(Stdio::null());
        let _registry = Running(registry.spawn().expect("docker-registry"));
        let site = Self { network, dir, _registry, serving: None };
        assert!(site.listens(443), "no registry");
        site
    }

    /// Waits until something listens on a port there; says whether it did.
    fn listens(&self, port: u16) -> bool {
        let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
        let end = Instant::now() + Duration::from_secs(30);
        let answers = || self.network.command("bash").args(["-c", &connect]).stderr(Stdio::null()).status();
        while !answers().expect("bash").success() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// A shell there, with `/var/lib` of its own.
    fn shell(&self, text: &str) -> Command {
        let script = "mount --bind lib /var/lib && exec setsid --wait sh -ec \"$0\"";
        let mut command = self.network.command("sh");
        command.args(["-c", script, text]).current_dir(&self.dir);
        command.env("HOME", self.dir.join("home")).env("SSL_CERT_FILE", self.dir.join("ca.pem"));
        command
    }

    fn run(&mut self, command: &Documented) -> Run {
        if command.text.starts_with("./airlock serve ") {
            return self.serve(command);
        }
        let mut child = self.shell(&command.text);
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().expect("sh");
        // Only htpasswd asks.
        let _ = write!(child.stdin.take().expect("stdin"), "{0}\n{0}\n", LOGIN.1);
        child.wait_with_output().expect("sh").into()
    }

    fn serve(&mut self, command: &Documented) -> Run {
        // The documents show several ways to serve at one port: each in the place of the one before.
        self.serving = None;
        let script = format!("mount --bind lib /var/lib && exec {}", command.text);
        let mut shell = self.network.command("sh");
        let log = self.dir.join("serve.log");
        let file = fs::File::create(&log).expect("a log");
        shell.args(["-c", &script]).current_dir(&self.dir).stdout(Stdio::null()).stderr(file);
        self.serving = Some(Running(shell.spawn().expect(&command.text)));
        let code = if self.listens(5000) { 0 } else { -1 };
        Run { code, stdout: String::new(), stderr: fs::read_to_string(log).expect("the log") }
    }
}

/// The connected side of AIRGAP.md: the repository's own chart and images, helm, and the keys that it names.
pub fn hello(document: &Document) -> Connected {
    let connected = Connected { world: World::new(), mirrors: part("AIRLOCK_TEST_MIRRORS") };
    let world = &connected.world;
    let spec = fs::read_to_string(format!("{}/../bundle.toml", env!("CARGO_MANIFEST_DIR"))).expect("a spec");
    let spec = format!("{spec}\n{}", document.block("toml", 0)).replace('…', &connected.helm());
    world.write("bundle.toml", spec.as_bytes());
    let charts = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts");
    succeed(Command::new("cp").args(["-r", charts]).arg(world.path("charts")));
    connected
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn airgap_commands_run_as_written() {
    let document = Document::read("AIRGAP.md");
    let connected = hello(&document);
    let world = &connected.world;
    connected.openssl_keys("release.pem", "release.pub");
    connected.openssl_keys("security.key", "security.pub");
    connected.cosign_keys("cosign");
    fs::copy(world.path("release.pem"), world.path("release.key")).expect("copied");
    policies(world, document.block("toml", 1));

    let _alone = engines::K8S_IO.lock();
    let _gone = engines::Imported("k8s.io");
    let mut site = Site::new(world);
    let (mut is_at_site, mut runs) = (false, Vec::new());
    for command in document.commands() {
        if is_on_cluster(&command.text) || is_elsewhere(&command.text) {
            continue;
        }
        // What was built is carried over before anything else is done with it.
        carry_over(world, &site);
        // A person at the site calls airlock by a path. Other programs run on the side of the command before, but for those
        // that need the tests' engine.
        let program = command.text.split(' ').next().unwrap_or_default();
        is_at_site = program == "./airlock" || (is_at_site && program != "airlock");
        let is_an_engines = ["docker", "ctr"].contains(&program);
        let run = if is_at_site && !is_an_engines { site.run(&command) } else { connected.run(&command) };
        runs.push((command, run));
    }
    assert!(runs.len() > 20, "{} commands were run", runs.len());
    assert_all_ended_well(runs);
    let loaded = engines::listed("k8s.io");
    assert!(loaded.contains(&(REDIS.into(), upstream_for(REDIS, "amd64"))), "{loaded:?}");
}

/// Writes the documented policy, and the one that comes after it, with keys that exist.
fn policies(world: &World, documented: &str) {
    let mut policy = documented.to_owned();
    let example = "-----BEGIN PUBLIC KEY-----\n…\n-----END PUBLIC KEY-----\n";
    for name in ["release.pub", "security.pub"] {
        let key = fs::read_to_string(world.path(name)).expect("a key");
        assert!(policy.contains(example), "a key for {name} in {policy}");
        policy = policy.replacen(example, &key, 1);
    }
    world.write("trust.toml", policy.as_bytes());
    world.write("next.toml", policy.replace("serial = 1 ", "serial = 2 ").as_bytes());
}

/// Copies to the site what a field engineer brings along, unless it is there. Signatures are added to their file.
fn carry_over(world: &World, site: &Site) {
    const SIGNATURES: &str = "next.toml.sigstore.json";
    let files = ["hello-0.1.0.tar", "airlock.pub", "trust.toml", "next.toml", SIGNATURES];
    let airlock = site.dir.join("airlock");
    if !airlock.exists() {
        fs::copy(env!("CARGO_BIN_EXE_airlock"), airlock).expect("airlock");
    }
    for name in files {
        let (from, to) = (world.path(name), site.dir.join(name));
        if from.exists() && (name == SIGNATURES || !to.exists()) {
            fs::copy(from, to).expect(name);
        }
    }
}
