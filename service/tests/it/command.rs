//! Arguments, settings and exit codes.

use super::*;

#[test]
fn bad_settings_are_all_named_at_once() {
    let output = service(&[("BIND_PORT", "0"), ("REDIS_PORT", "x")]).output().expect("the service runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("BIND_PORT") && said.contains("REDIS_PORT"), "{said}");
}

#[test]
fn a_port_in_use_is_an_error_not_a_panic() {
    let taken = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let output = service(&[("BIND_PORT", &port)]).output().expect("the service runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen on port {port}")), "{said}");
}

#[test]
fn a_bad_log_filter_is_an_error() {
    let output = service(&[("RUST_LOG", "service=loud")]).output().expect("the service runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("RUST_LOG must be a filter"), "{said}");
}

#[test]
fn the_version_is_said_and_unknown_arguments_are_refused() {
    let output = service(&[]).arg("--version").output().expect("the service runs");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("service {}\n", env!("CARGO_PKG_VERSION")));
    let output = service(&[]).arg("--serve").stderr(Stdio::piped()).output().expect("the service runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown arguments: --serve"));
}

#[test]
fn a_health_check_is_healthy_only_where_200_is_answered() {
    let (_service, port) = start(free_port(), "secret");
    let check = |bind: u16, args: &[&str]| {
        let mut command = service(&[("BIND_PORT", &bind.to_string())]);
        let output = command.args(args).stderr(Stdio::piped()).output().expect("the service runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(check(port, &["--healthcheck"]), (Some(0), String::new()));
    let ready = format!("http://localhost:{port}/readyz");
    assert_eq!(check(1, &["--healthcheck", &ready]), (Some(1), format!("error: {ready}: status 503\n")));
    let (code, said) = check(free_port(), &["--healthcheck"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("Connection refused"), "{said}");
}

#[test]
fn sigterm_ends_it_with_success_although_a_client_stays_connected() {
    let (mut running, port) = start(free_port(), "secret");
    let mut idle = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    write!(idle, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").expect("send");
    idle.read_exact(&mut [0; 12]).expect("an answer");
    let kill = Command::new("kill").arg(running.0.id().to_string()).status().expect("kill runs");
    assert!(kill.success());
    assert_eq!(running.0.wait().expect("its end").code(), Some(0));
}
