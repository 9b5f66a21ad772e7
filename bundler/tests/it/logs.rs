//! Output of `-v`, of `-q` and in the access log of `serve`; no secret is in it.

use std::io::Read as _;
use std::process::Stdio;

use serde_json::Value;

use crate::faults::stop;
use crate::world::{Run, World};

#[test]
fn verbose_verify_has_a_line_for_each_blob() {
    let world = World::with_bundle();
    let verify = ["verify", "app.tar", "--key", "airlock.pub", "--progress", "none"];
    assert_eq!(world.run(&verify).exits(0).stderr, "");
    let run = world.run(&[&verify[..], &["-v"]].concat()).exits(0);
    let blobs = run.stderr.lines().filter(|line| line.contains(" bytes as signed, ")).count();
    let layers = 3; // of two images, and a file; all else is checked when the bundle is opened
    assert!(blobs >= layers, "{}", run.stderr);
    assert!(run.stderr.contains("image docker.io/library/redis:8"), "{}", run.stderr);
    world.run(&[&verify[..], &["-v", "-q"]].concat()).exits(1).says("cannot be used with");
}

#[test]
fn quiet_says_errors_only() {
    let world = World::with_bundle();
    let lines = ["--progress", "json"];
    let mirrors = ["mirrors", "crio", "app.tar", "--key", "airlock.pub", "--registry", "site:5000"];
    let verify = ["verify", "app.tar", "--key", "airlock.pub"];
    for args in [&mirrors[..], &[&verify[..], &lines].concat(), &["lock"]] {
        for quiet in ["-q", "--quiet"] {
            let run = world.run(&[args, &[quiet]].concat()).exits(0);
            assert_eq!(run.stderr, "", "{args:?}");
            assert!(!run.stdout.is_empty(), "results are said");
        }
    }
    // Errors are said, and that nobody's signature was looked at.
    world.run(&["verify", "gone.tar", "--key", "airlock.pub", "-q"]).exits(1).says("error: ");
    world
        .run(&["verify", "app.tar", "--insecure-skip-verify", "-q"])
        .exits(0)
        .says("signature is NOT checked");
}

#[test]
fn weaker_checks_are_not_suggested() {
    let world = World::new();
    for (verb, wrong, weak) in [
        ("verify", "--quik", "--quick"),
        ("verify", "--insecure", "--insecure-skip-verify"),
        ("push", "--insecure-skip-tls-verify", "--insecure-skip-verify"),
        ("build", "--unsign", "--unsigned"),
        ("install", "--skip-preflights", "--skip-preflight"),
        ("install", "--allow-downgrades", "--allow-downgrade"),
        ("mirrors", "--forced", "--force"),
    ] {
        let run = world.run(&[verb, "x", wrong]).exits(1);
        let said = run.stderr.replace(wrong, "");
        assert!(run.stderr.contains("unexpected argument") && !said.contains(weak), "{}", run.stderr);
    }
    world.run(&["verify", "x", "--progess", "none"]).exits(1).says("--progress");
}

/// Serves `app.tar`, has `client` talk to it, and gives what was said on stderr.
fn served(world: &World, more: &[&str], client: impl FnOnce(&str)) -> Run {
    let serve = ["serve", "app.tar", "--key", "airlock.pub", "--listen", "127.0.0.1:0"];
    let mut command = world.command(&[&serve[..], more].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("airlock");
    let mut text = String::new();
    let mut stdout = child.stdout.take().expect("its stdout");
    while !text.contains("/v2/") && !text.contains("\"version\"") {
        let mut byte = [0; 256];
        let read = stdout.read(&mut byte).expect("its stdout");
        assert!(read > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&byte[..read]));
    }
    let at = text.find("127.0.0.1:").expect("an address");
    let host: String = text[at..].chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
    client(&host);
    stop(child, "TERM").exits(0)
}

fn curl(args: &[&str]) {
    let fixed = ["--silent", "--output", "/dev/null", "--noproxy", "*"];
    crate::parts::succeed(std::process::Command::new("curl").args(fixed).args(args));
}

#[test]
fn serve_logs_each_request_with_its_client() {
    let world = World::with_bundle();
    let ask = |host: &str| {
        curl(&[&format!("http://{host}/v2/library/redis/manifests/8?token=s3cret")]);
        curl(&["--user", "ann:s3cret", &format!("http://{host}/v2/library/nginx/tags/list")]);
        curl(&["--head", &format!("http://{host}/v2/")]);
    };
    let run = served(&world, &[], ask);
    let lines: Vec<&str> = run.stderr.lines().filter(|line| line.contains(" /v2/")).collect();
    let [manifest, unknown, head] = lines[..] else { unreachable!("{}", run.stderr) };
    for part in [" 127.0.0.1:", " GET /v2/library/redis/manifests/8 200 ", " bytes ", " s"] {
        assert!(manifest.contains(part), "{manifest}");
    }
    assert!(manifest.starts_with("20") && manifest.contains('T'), "{manifest}");
    assert!(unknown.contains(" GET /v2/library/nginx/tags/list 404 "), "{unknown}");
    assert!(head.contains(" HEAD /v2/ 200 0 bytes "), "{head}");
    assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
    assert!(!served(&world, &["-q"], ask).stderr.contains("/v2/"));
    let json = served(&world, &["--json"], ask).stderr;
    let line = json.lines().find(|line| line.contains("manifests/8")).expect("a line");
    let line: Value = serde_json::from_str(line).expect(line);
    assert_eq!((&line["method"], &line["status"]), (&"GET".into(), &200.into()));
    assert!(line["bytes"].as_u64().is_some_and(|bytes| bytes > 0) && line["client"].is_string(), "{line}");
}

#[test]
fn verbose_push_has_a_line_for_each_request() {
    let world = World::with_bundle();
    let mut store = world.command(&["serve", "--store", "store", "--listen", "127.0.0.1:0", "--json"]);
    let mut child = store.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("airlock");
    let stdout = child.stdout.take().expect("its stdout");
    let said = serde_json::Deserializer::from_reader(stdout.take(4096)).into_iter::<Value>().next();
    let host = said.expect("an address").expect("JSON")["address"].as_str().expect("an address").to_owned();
    let push = ["push", "app.tar", "--key", "airlock.pub", "--registry", &host, "--progress", "none"];
    let run = world.run(&[&push[..], &["-v"]].concat()).exits(0);
    let has = |part: &str| run.stderr.lines().any(|line| line.contains(part));
    let put = format!("PUT http://{host}/v2/docker.io/library/redis/manifests/8: 201 Created, ");
    assert!(has(&put) && has(" bytes sent to ") && has(": is there now"), "{}", run.stderr);
    assert!(run.stderr.lines().all(|line| !line.contains("answered with")), "{}", run.stderr);
    let again = world.run(&[&push[..], &["-vv"]].concat()).exits(0);
    assert!(again.stderr.contains(": is there already") && again.stderr.contains("answered with "));
    let log = stop(child, "TERM").exits(0).stderr;
    assert!(log.contains("\"method\":\"PUT\"") && log.contains("\"status\":201"), "{log}");
}

/// A proxy's refusals, and one of a registry.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_refusal_does_not_ask_for_a_login() {
    use crate::liar::{Liar, answer};
    let world = World::with_bundle();
    for (status, headers, body, said, login) in [
        (
            403,
            &[("content-type", "text/html")][..],
            "<html>Blocked</html>",
            "by a proxy or firewall in between",
            false,
        ),
        (403, &[("via", "1.1 squid")], "", "by a proxy or firewall in between", false),
        (
            407,
            &[("proxy-authenticate", "Basic realm=p")],
            "",
            "the proxy wants a login: write it into HTTPS_PROXY",
            false,
        ),
        (403, &[("content-type", "application/json")], r#"{"errors":[{"code":"DENIED"}]}"#, "DENIED", true),
    ] {
        let liar = Liar::start(move |_| Some(answer(status, headers, body))).await;
        let args = ["push", "app.tar", "--key", "airlock.pub", "--registry", &liar.host];
        let run = tokio::task::block_in_place(|| world.run(&args)).exits(3);
        // The remedies of a HEAD, which has no body, are those of the headers.
        assert_eq!(run.stderr.contains("docker login"), login, "{}", run.stderr);
        if !body.starts_with('{') {
            assert!(run.stderr.contains(said), "{}", run.stderr);
        }
    }
}
