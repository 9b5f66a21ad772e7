//! Real parts that tests start for themselves, and end.

use std::ffi::OsStr;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A process that is ended when the test is over, however it ends.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its address").port()
}

/// Waits until something listens on a port of loopback.
pub fn wait_for(port: u16) {
    let end = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end, "nothing listens on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A small file system of a test's own, for which root is needed.
pub struct Tmpfs(TempDir);

impl Tmpfs {
    /// With options of mount(8), such as `size=1m`.
    pub fn mount(options: &str) -> Self {
        let tmpfs = Self(tempfile::tempdir().expect("a directory"));
        succeed(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(tmpfs.path()));
        tmpfs
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// From now on nobody writes to it, not even root.
    pub fn make_read_only(&self) {
        succeed(Command::new("mount").args(["-o", "remount,ro"]).arg(self.path()));
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: what a failed test left running may still have files open there.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

/// A network with nothing in it but loopback, for which root is needed.
pub struct Isolation(String);

impl Isolation {
    pub fn new() -> Self {
        let name = format!("airlock-test-{}-{}", std::process::id(), free_port());
        succeed(Command::new("ip").args(["netns", "add", &name]));
        let network = Self(name);
        succeed(network.command("ip").args(["link", "set", "lo", "up"]));
        network
    }

    /// A network in which its loopback has a name.
    pub fn named(host: &str) -> Self {
        let network = Self::new();
        // `ip netns exec` puts the files that it finds there into the place of those of /etc.
        fs::create_dir_all(network.etc()).expect("a directory");
        let hosts = format!("127.0.0.1 localhost {host}\n");
        fs::write(network.etc().join("hosts"), hosts).expect("hosts");
        network
    }

    fn etc(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.0)
    }

    /// A program that sees that network only.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }

    /// Waits until something listens on a port of its loopback.
    pub fn wait_for(&self, port: u16) {
        let end = Instant::now() + Duration::from_secs(30);
        let url = format!("http://127.0.0.1:{port}/");
        while !self.command("curl").args(["-so", "/dev/null", &url]).status().expect("curl").success() {
            assert!(Instant::now() < end, "nothing listens on port {port}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Isolation {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
        let _ = fs::remove_dir_all(self.etc());
    }
}

/// Sends a signal, such as `TERM`.
pub fn signal(process: &Child, name: &str) {
    succeed(Command::new("sh").args(["-c", &format!("kill -s {name} {}", process.id())]));
}

/// What CNCF distribution must be told to be taken for an OCI client.
pub const ACCEPT: [&str; 2] = ["-H", "Accept: application/vnd.oci.image.manifest.v1+json"];

/// Runs a program that must succeed; what it prints.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| unreachable!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A login that [`Registry`] can be told to ask for, and bcrypt's hash of it.
pub const LOGIN: (&str, &str) = ("ali", "open sesame");
const LOGIN_HASH: &str = "$2b$04$z0L5izj8cA4u/LVqNXQn0..bwc37sT1c95gfelt4Iv4EwXXuulYKW";

/// How a [`Registry`] is to be.
#[derive(Default)]
pub struct Settings<'a> {
    /// Whether it asks for [`LOGIN`].
    pub login: bool,
    /// What it speaks TLS with.
    pub certificate: Option<&'a Certificate>,
    /// Where its files go; temporary ones of the system otherwise.
    pub below: Option<&'a Path>,
    /// The network that it is in; this machine's otherwise.
    pub network: Option<&'a Isolation>,
}

/// What [`Registry`] answered, line by line.
const ACCESS_LOG: &str = "access.log";

/// CNCF distribution's registry on loopback, empty at first.
pub struct Registry {
    _process: Running,
    directory: TempDir,
    port: u16,
}

impl Registry {
    /// Starts one that anyone may use by plain HTTP.
    pub fn start() -> Self {
        Self::with(&Settings::default())
    }

    /// Starts one.
    pub fn with(settings: &Settings) -> Self {
        let below = settings.below.map_or_else(std::env::temp_dir, Into::into);
        let directory = tempfile::tempdir_in(below).expect("a directory");
        let port = free_port();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            at("data")
        );
        if let Some(Certificate { certificate, key, .. }) = settings.certificate {
            config += &format!("  tls: {{certificate: {}, key: {}}}\n", certificate.display(), key.display());
        }
        if settings.login {
            fs::write(at("htpasswd"), format!("{}:{LOGIN_HASH}\n", LOGIN.0)).expect("written");
            config += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", at("htpasswd"));
        }
        fs::write(at("config.yml"), config).expect("written");
        let program = "docker-registry";
        let command = settings.network.map(|network| network.command(program));
        let child = command
            .unwrap_or_else(|| Command::new(program))
            .args(["serve", &at("config.yml")])
            .stdout(fs::File::create(at(ACCESS_LOG)).expect("a log"))
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry must be installed (Debian: apt-get install docker-registry)");
        let process = Running(child);
        settings.network.map_or_else(|| wait_for(port), |network| network.wait_for(port));
        Self { _process: process, directory, port }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The requests that it has answered, such as `HEAD /v2/app/manifests/1 HTTP/1.1`.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.path().join(ACCESS_LOG)).expect("its log");
        log.lines().filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
    }
}

/// A server certificate for 127.0.0.1 and localhost, and what makes it trusted, as PEM files.
pub struct Certificate {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certificate {
    /// Signed by a CA.
    pub fn signed(directory: &Path) -> Self {
        let (ca, ca_key) = self_signed(directory, "ca", &[]);
        let (ca_text, ca_key) = (ca.display().to_string(), ca_key.display().to_string());
        let by_ca = ["-CA", &ca_text, "-CAkey", &ca_key, "-addext", "basicConstraints=critical,CA:FALSE"];
        let (certificate, key) = self_signed(directory, "server", &by_ca);
        Self { ca, certificate, key }
    }

    /// Signed by itself, as guides to private registries do it.
    pub fn self_signed(directory: &Path) -> Self {
        let (certificate, key) = self_signed(directory, "server", &[]);
        Self { ca: certificate.clone(), certificate, key }
    }
}

/// A certificate and its key, made by openssl.
fn self_signed(directory: &Path, name: &str, more: &[&str]) -> (PathBuf, PathBuf) {
    let (certificate, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
    let status = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", &format!("/CN={name}"), "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(more)
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status()
        .expect("openssl must be installed (Debian: apt-get install openssl)");
    assert!(status.success(), "openssl: {status}");
    (certificate, key)
}
