//! Passwords, certificates and Sentinels, and what happens when they change.

use super::load::Load;
use super::*;
use std::path::Path;
use tempfile::TempDir;

/// A directory with two authorities, a server's certificate of each for `localhost`, and a client's of the first.
struct Certificates(TempDir);

impl Certificates {
    fn make() -> Self {
        let this = Self(TempDir::new().expect("a directory"));
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        for ca in ["ca", "other"] {
            let files = format!("-x509 -days 2 -subj /CN={ca} -keyout {ca}.key -out {ca}.pem");
            this.openssl(["req"].into_iter().chain(key).chain(files.split(' ')));
        }
        std::fs::write(
            this.0.path().join("leaf"),
            "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n",
        )
        .expect("written");
        for (name, ca) in [("server", "ca"), ("client", "ca"), ("stranger", "other")] {
            let files = format!("-subj /CN={name} -keyout {name}.key -out {name}.csr");
            this.openssl(["req"].into_iter().chain(key).chain(files.split(' ')));
            let sign = format!(
                "x509 -req -days 2 -in {name}.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial -extfile leaf \
                 -out {name}.pem"
            );
            this.openssl(sign.split_whitespace());
        }
        this
    }

    fn openssl<'a>(&self, args: impl Iterator<Item = &'a str>) {
        let output = Command::new("openssl").args(args).current_dir(self.0.path()).output();
        let output = output.expect("openssl must be installed (Debian: apt-get install openssl)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a path").to_owned()
    }

    /// A Redis that shows `name`'s certificate and speaks TLS alone.
    fn redis(&self, port: u16, name: &str, clients: &str) -> Redis {
        let (cert, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        let ca = self.path("ca.pem");
        let args = [
            ["--port", "0", "--tls-port", "PORT", "--tls-cert-file", &cert, "--tls-key-file", &key],
            [
                "--tls-ca-cert-file",
                &ca,
                "--tls-auth-clients",
                clients,
                "--loglevel",
                "warning",
                "--databases",
                "2",
            ],
        ];
        let (cert, key) = (self.path("client.pem"), self.path("client.key"));
        let cli = ["--tls", "--insecure", "--cacert", &ca, "--cert", &cert, "--key", &key];
        Redis::on(port, &args.concat(), &cli)
    }

    fn settings<'a>(&self, ca: &'a str) -> [(&'a str, &'a str); 3] {
        [("REDIS_HOST", "localhost"), ("REDIS_TLS", "true"), ("REDIS_TLS_CA_FILE", ca)]
    }
}

#[test]
fn tls_with_an_authority_of_ones_own() {
    let certificates = Certificates::make();
    let redis = certificates.redis(free_port(), "server", "no");
    let ca = certificates.path("ca.pem");
    let service = Service::ready(redis.port, &certificates.settings(&ca));
    assert_eq!((service.count(), redis.hits()), (1, 1));

    let other = certificates.path("other.pem");
    let service = Service::start(redis.port, &certificates.settings(&other));
    service.logs("invalid peer certificate: UnknownIssuer");
    assert_eq!((service.status("/"), service.status("/readyz")), (503, 503));

    let mut settings = certificates.settings(&ca);
    settings[0] = ("REDIS_HOST", "127.0.0.1");
    let service = Service::start(redis.port, &settings);
    service.logs("invalid peer certificate: certificate not valid for name");
    assert_eq!(service.status("/readyz"), 503);

    // Mozilla's authorities, when none are named.
    let service = Service::start(redis.port, &certificates.settings(&ca)[..2]);
    service.logs("invalid peer certificate: UnknownIssuer");
    assert!(service.metric("hello_redis_errors_total{command=\"CONNECT\",kind=\"tls\"}") >= 1.0);
}

#[test]
fn tls_with_client_certificates_and_another_authority_later() {
    let certificates = Certificates::make();
    let mut redis = certificates.redis(free_port(), "server", "yes");
    let (port, ca) = (redis.port, certificates.path("trusted.pem"));
    std::fs::copy(certificates.path("ca.pem"), &ca).expect("copied");
    let service = Service::start(port, &certificates.settings(&ca));
    service.logs("received fatal alert: CertificateRequired");
    assert_eq!(service.status("/readyz"), 503);

    let (cert, key) = (certificates.path("client.pem"), certificates.path("client.key"));
    let identity = [("REDIS_TLS_CERT_FILE", cert.as_str()), ("REDIS_TLS_KEY_FILE", key.as_str())];
    let service = Service::ready(port, &[&certificates.settings(&ca)[..], &identity[..]].concat());
    assert_eq!(service.count(), 1);

    redis.kill();
    let redis = certificates.redis(port, "stranger", "yes");
    service.logs("invalid peer certificate: UnknownIssuer");
    std::fs::copy(certificates.path("other.pem"), &ca).expect("copied");
    service.becomes_ready();
    assert_eq!((service.count(), redis.hits()), (1, 1));
}

#[test]
fn an_acl_user_needs_little() {
    let users = "--user hello on >secret ~hits +ping +incr --user mute on >secret +ping";
    let redis = Redis::start(&users.split(' ').collect::<Vec<_>>(), &[]);
    let settings = |name| [("REDIS_USERNAME", name), ("REDIS_PASSWORD", "secret")];
    let service = Service::ready(redis.port, &settings("hello"));
    assert_eq!((service.count(), redis.hits()), (1, 1));
    let service = Service::ready(redis.port, &settings("mute"));
    assert_eq!(service.status("/"), 503);
    assert_eq!(service.metric("hello_redis_errors_total{command=\"INCR\",kind=\"auth\"}"), 1.0);
    assert_eq!(service.metric("hello_redis_connects_total"), 1.0);
    let service = Service::start(redis.port, &settings("nobody"));
    service.logs("user or password are not accepted");
    assert!(!service.log().contains("secret"), "{}", service.log());
}

#[test]
fn another_database_and_another_key() {
    let redis = Redis::start(&[], &[]);
    let service = Service::ready(redis.port, &[("REDIS_DB", "3"), ("REDIS_KEY", "visits")]);
    assert_eq!(service.count(), 1);
    assert_eq!(redis.cli(&["-n", "3", "get", "visits"]), "1");
}

/// Puts a file in another's place at once, as Kubernetes does.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).expect("written");
    std::fs::rename(new, path).expect("renamed");
}

#[test]
fn a_password_is_rotated_under_load_and_no_request_notices() {
    let user: Vec<_> = "--user hello on >old ~hits +ping +incr".split(' ').collect();
    let redis = Redis::start(&user, &[]);
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("password");
    replace(&file, "old\n");
    let path = file.to_str().expect("a path");
    let service = Service::ready(redis.port, &[("REDIS_USERNAME", "hello"), ("REDIS_PASSWORD_FILE", path)]);
    let load = Load::on(service.port);
    load.goes_on_for(100);
    // Too early: Redis does not know it yet. The old one is kept, and it is said why.
    replace(&file, "new");
    service.logs("can't be used (yet)");
    assert_eq!(redis.cli(&["acl", "setuser", "hello", ">new"]), "OK");
    service.logs("connected anew");
    assert_eq!(redis.cli(&["acl", "setuser", "hello", "<old"]), "OK");
    load.goes_on_for(100);
    let seen = load.stops();
    assert_eq!((seen.broken, seen.unavailable), (Vec::new(), 0));
    assert_eq!(redis.hits(), seen.counts.len() as u64);
    // It is the new one that is used from now on.
    redis.cli(&["client", "kill", "type", "normal"]);
    eventually("connected a third time", || service.metric("hello_redis_connects_total") >= 3.0);
    service.becomes_ready();
    assert!(!service.log().contains("old") && !service.log().contains("\"new\""), "{}", service.log());
}

#[test]
fn sentinels_name_the_master_and_after_a_failover_the_next() {
    let password = ["--requirepass", "secret", "--masterauth", "secret"];
    let mut master = Redis::start(&password, &["-a", "secret"]);
    let mut args = password.to_vec();
    let old = master.port.to_string();
    args.extend(["--replicaof", "127.0.0.1", &old, "--repl-diskless-sync-delay", "0"]);
    let replica = Redis::start(&args, &["-a", "secret"]);
    let directory = TempDir::new().expect("a directory");
    let port = free_port();
    let file = directory.path().join("sentinel.conf");
    let lines = [
        format!("port {port}\nbind 127.0.0.1\nrequirepass watch\ndir {}", directory.path().display()),
        format!("sentinel monitor counter 127.0.0.1 {old} 1\nsentinel auth-pass counter secret"),
        "sentinel down-after-milliseconds counter 500\nsentinel failover-timeout counter 3000".into(),
    ];
    std::fs::write(&file, lines.join("\n")).expect("written");
    let sentinel = Command::new("redis-server").arg(&file).arg("--sentinel").stdout(Stdio::null()).spawn();
    let _sentinel = Running(sentinel.expect("redis-server runs"));

    // The first does not exist.
    let sentinels = format!("127.0.0.1:{},127.0.0.1:{port}", free_port());
    let settings = [
        ("REDIS_PASSWORD", "secret"),
        ("REDIS_SENTINELS", &sentinels),
        ("REDIS_SENTINEL_MASTER", "counter"),
        ("REDIS_SENTINEL_PASSWORD", "watch"),
    ];
    let service = Service::ready(1, &settings);
    assert_eq!(service.count(), 1);
    service.logs(&format!("\"server\":\"127.0.0.1:{old}\""));
    eventually("the replica has it", || replica.cli(&["get", "hits"]) == "1");
    // Sentinel asks the master for its replicas every ten seconds.
    eventually("Sentinel knows the replica", || {
        let said = Command::new("redis-cli")
            .args([
                "-p",
                &port.to_string(),
                "-a",
                "watch",
                "--no-auth-warning",
                "sentinel",
                "replicas",
                "counter",
            ])
            .output();
        String::from_utf8_lossy(&said.expect("redis-cli").stdout).contains(&replica.port.to_string())
    });
    master.kill();
    eventually("not ready", || service.status("/readyz") == 503);
    service.becomes_ready();
    assert_eq!(service.count(), 2);
    service.logs(&format!("\"server\":\"127.0.0.1:{}\"", replica.port));

    let unknown = [settings[0], settings[1], ("REDIS_SENTINEL_MASTER", "x"), settings[3]];
    Service::start(1, &unknown).logs("it knows no master");
}
