//! What the chart renders, run: its Redis with its own configuration, users and certificates, its probes, and the service
//! with its file.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::Value;

use super::{Rendered, list, name};
use crate::parts::{Running, free_port, succeed};

/// Writes a Secret's or ConfigMap's content, with paths and ports of pods exchanged for those of this machine.
fn write(object: &Value, dir: &Path, here: &dyn Fn(&str) -> String) {
    fs::create_dir_all(dir).expect("a directory");
    for (key, value) in object["data"].as_object().expect("data") {
        let value = value.as_str().expect("text");
        let content = match object["kind"].as_str() {
            Some("Secret") => base64::engine::general_purpose::STANDARD.decode(value).expect("base64"),
            _ => here(value).into_bytes(),
        };
        fs::write(dir.join(key), content).expect("written");
    }
}

fn words<'a>(value: &'a Value, here: &'a dyn Fn(&str) -> String) -> Vec<String> {
    list(value).iter().map(|word| here(word.as_str().expect("a word"))).collect()
}

/// Asks until the answer has a text, for 20 s at most.
fn answers(url: &str, text: &str) -> String {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let output = Command::new("curl").args(["-s", "--max-time", "5", url]).output().expect("curl");
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        if answer.contains(text) {
            return answer;
        }
        assert!(Instant::now() < end, "{url}: no {text:?} in {answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn the_rendered_redis_and_service_greet_each_other() {
    let temporary = tempfile::tempdir().expect("a directory");
    let dir = temporary.path();
    let root = dir.to_str().expect("UTF-8");
    let (redis_port, port) = (free_port(), free_port());
    let rendered = Rendered::new("running", &["--set", "redis.metrics.enabled=true"]);
    let password = rendered.kind("Secret").into_iter().find_map(|s| s["data"]["redis-password"].as_str());
    let password =
        base64::engine::general_purpose::STANDARD.decode(password.expect("a password")).expect("base64");
    let password = String::from_utf8(password).expect("UTF-8");
    let here = |text: &str| {
        let places = [
            ("redis_host = \"demo-redis\"", "redis_host = \"localhost\"".to_owned()),
            ("redis_port = 6379", format!("redis_port = {redis_port}")),
            ("bind_port = 8000", format!("bind_port = {port}\nbind_address = \"127.0.0.1\"")),
            ("tls-port 6379", format!("tls-port {redis_port}")),
            ("/etc/", format!("{root}/")),
            ("/tls/", format!("{root}/tls/")),
            ("dir /data", format!("dir {root}")),
            ("$(REDIS_PASSWORD)", password.clone()),
        ];
        places.iter().fold(text.to_owned(), |text, (old, new)| text.replace(old, new))
    };
    write(rendered.one("ConfigMap", "redis"), &dir.join("redis"), &here);
    write(rendered.one("ConfigMap", "hello"), &dir.join("hello"), &here);
    let secrets: BTreeMap<&str, &Value> = rendered.kind("Secret").into_iter().map(|s| (name(s), s)).collect();
    write(secrets["demo-redis-tls"], &dir.join("tls"), &here);
    let deployment = &rendered.one("Deployment", "")["spec"]["template"]["spec"];
    for source in
        list(&deployment["volumes"][0]["projected"]["sources"]).iter().filter_map(|s| s.get("secret"))
    {
        write(secrets[source["name"].as_str().expect("a name")], &dir.join("secret"), &here);
        for item in list(&source["items"]) {
            let file = |field: &str| item[field].as_str().expect("a name");
            fs::copy(dir.join("secret").join(file("key")), dir.join("hello").join(file("path")))
                .expect("copied");
        }
    }

    let container = &rendered.one("StatefulSet", "")["spec"]["template"]["spec"]["containers"][0];
    let command = [words(&container["command"], &here), words(&container["args"], &here)].concat();
    let redis = || {
        let log = fs::File::create(dir.join("redis.log")).expect("a log");
        Running(Command::new(&command[0]).args(&command[1..]).stdout(log).spawn().expect("redis-server"))
    };
    let cli = |more: &[&str]| {
        let ca = format!("{root}/tls/ca.crt");
        let at = ["-p", &redis_port.to_string(), "--tls", "--cacert", &ca].map(str::to_owned);
        let output = Command::new("redis-cli").args(at).args(more).output().expect("redis-cli");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let server = redis();
    // The probes as they are rendered, but for the port.
    let ready = |probe: &str| {
        let mut command = words(&container[probe]["exec"]["command"], &here);
        command.splice(1..1, ["-p".to_owned(), redis_port.to_string()]);
        Command::new(&command[0]).args(&command[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status()
    };
    let end = Instant::now() + Duration::from_secs(20);
    while !ready("startupProbe").expect("redis-cli").success() {
        assert!(Instant::now() < end, "{}", fs::read_to_string(dir.join("redis.log")).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(ready("readinessProbe").expect("redis-cli").success());
    assert!(ready("livenessProbe").expect("redis-cli").success());
    let arguments = fs::read_to_string(format!("/proc/{}/cmdline", server.0.id())).expect("its arguments");
    assert!(arguments.contains("redis-server") && !arguments.contains(&password), "{arguments}");

    // Beside the program under test: `cargo test --workspace` builds both.
    let service = Path::new(env!("CARGO_BIN_EXE_airlock")).with_file_name("service");
    let log = fs::File::create(dir.join("service.log")).expect("a log");
    let mut service = Command::new(service);
    service.env_clear().env("CONFIG_FILE", dir.join("hello/hello.toml")).stdout(log).arg0("/hello");
    let _service = Running(service.spawn().expect("the service: cargo build -p service"));
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    answers(&url("/readyz"), "");
    answers(&url("/"), "I have been seen 1 times.");
    let metrics = answers(&url("/metrics"), "hello_redis_up 1");
    for metric in super::monitoring::METRICS {
        assert!(
            metrics.contains(&format!("\n{metric}{{")) || metrics.contains(&format!("\n{metric} ")),
            "{metric}"
        );
    }

    // What each user may do.
    assert!(!cli(&["-e", "incr", "hits"]).0, "nobody counts without a password");
    let user =
        |name: &str, words: &[&str]| cli(&[&["--user", name, "--pass", &password, "-e"], words].concat());
    for (who, may, may_not) in [
        ("hello", ["role", ""], ["get hits", "flushall", "config get requirepass", "shutdown"]),
        (
            "metrics",
            ["info", "config get maxmemory"],
            ["get hits", "flushall", "config set maxmemory 1", "incr hits"],
        ),
    ] {
        for words in may.iter().filter(|words| !words.is_empty()) {
            assert!(user(who, &words.split(' ').collect::<Vec<_>>()).0, "{who}: {words}");
        }
        for words in may_not {
            let (done, said) = user(who, &words.split(' ').collect::<Vec<_>>());
            assert!(!done && !said.contains("OK"), "{who}: {words}: {said}");
        }
    }

    // Killed and started again: the append-only file has the hit.
    drop(server);
    answers(&url("/"), "503");
    let _server = redis();
    answers(&url("/"), "I have been seen 2 times.");
    succeed(
        Command::new("openssl")
            .args(["verify", "-CAfile"])
            .arg(dir.join("tls/ca.crt"))
            .arg(dir.join("tls/tls.crt")),
    );
}
