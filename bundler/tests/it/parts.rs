//! Real parts that tests start for themselves, and end.

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
}

/// CNCF distribution's registry on loopback, empty at first.
pub struct Registry {
    _process: Running,
    _directory: TempDir,
    port: u16,
}

impl Registry {
    /// Starts one that anyone may use by plain HTTP.
    pub fn start() -> Self {
        Self::with(&Settings::default())
    }

    /// Starts one.
    pub fn with(settings: &Settings) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
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
        let child = Command::new("docker-registry")
            .args(["serve", &at("config.yml")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry must be installed (Debian: apt-get install docker-registry)");
        let process = Running(child);
        wait_for(port);
        Self { _process: process, _directory: directory, port }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
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
