//! Arguments, settings and exit codes.

use super::*;

/// Exit code, stdout and stderr.
fn outcome(settings: &[(&str, &str)], args: &[&str]) -> (Option<i32>, String, String) {
    let output = service(settings).args(args).stderr(Stdio::piped()).output().expect("the service runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn bad_settings_are_all_named_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("service.toml");
    std::fs::write(&file, "redis_pasword = \"hunter2\"\nredis_tls = \"maybe\"").expect("written");
    let file = file.to_str().expect("a path");
    let settings = [("BIND_PORT", "0"), ("REDIS_PORT", "x"), ("RUST_LOG", "service=loud")];
    let (code, said, _) = outcome(&settings, &["--config", file]);
    assert_eq!(code, Some(1), "{said}");
    // One line each, and no value of a setting that may be a secret.
    assert_eq!(said.lines().count(), 5, "{said}");
    for name in ["BIND_PORT", "REDIS_PORT", "RUST_LOG", "REDIS_TLS", "did you mean \\\"redis_password\\\"?"] {
        assert!(said.contains(name), "{name} in {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn the_file_is_used_and_the_environment_goes_over_it() {
    let redis = Redis::with_password("secret");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("service.toml");
    std::fs::write(
        &file,
        "redis_password = \"secret\"\nredis_key = \"visits\"\nbind_port = 1\nlog_format = \"text\"\n",
    )
    .expect("written");
    let service = Service::ready(redis.port, &[("CONFIG_FILE", file.to_str().expect("a path"))]);
    assert_eq!(service.count(), 1);
    assert_eq!(redis.cli(&["get", "visits"]), "1");
    assert!(service.log().contains(" INFO service: listening"), "{}", service.log());
    assert!(!service.log().contains("secret"), "{}", service.log());
}

#[test]
fn a_port_in_use_is_an_error_not_a_panic() {
    let taken = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let (code, said, _) = outcome(&[("BIND_PORT", &port)], &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen on 0.0.0.0:{port}")), "{said}");
}

#[test]
fn the_version_and_the_settings_are_said_and_unknown_arguments_are_refused() {
    let (code, said, _) = outcome(&[], &["--version"]);
    assert_eq!((code, said), (Some(0), format!("service {}\n", env!("CARGO_PKG_VERSION"))));
    let (code, said, _) = outcome(&[], &["--help"]);
    assert!(code == Some(0) && said.contains("  REDIS_PORT [6379]\n"), "{said}");
    let (code, _, said) = outcome(&[], &["--serve"]);
    assert!(code == Some(1) && said.contains("unknown arguments: --serve"), "{said}");
}

#[test]
fn a_health_check_is_healthy_only_where_200_is_answered() {
    let service = Service::start(free_port(), &[("BIND_ADDRESS", "::")]);
    let port = service.port.to_string();
    let check = |settings: &[(&str, &str)], args: &[&str]| {
        let (code, _, said) = outcome(settings, args);
        (code, said)
    };
    let well = (Some(0), String::new());
    assert_eq!(check(&[("BIND_PORT", &port)], &["--healthcheck"]), well);
    // Whatever else is wrong, and by IPv6 too.
    assert_eq!(
        check(&[("BIND_PORT", &port), ("BIND_ADDRESS", "::"), ("REDIS_PORT", "x")], &["--healthcheck"]),
        well
    );
    let ready = format!("http://localhost:{port}/readyz");
    assert_eq!(check(&[], &["--healthcheck", &ready]), (Some(1), format!("error: {ready}: status 503\n")));
    let (code, said) = check(&[("BIND_PORT", &free_port().to_string())], &["--healthcheck"]);
    assert!(code == Some(1) && said.contains("Connection refused"), "{said}");
}
