//! The chart, rendered with every file of `charts/hello/ci`: held against an API server's own validation, the Pod Security
//! standard, and the parts against each other.

mod meaning;
mod monitoring;
mod refusals;
mod running;
mod upgrade;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use serde_json::Value;

const RELEASE: &str = "demo";
const NAMESPACE: &str = "site";

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn helm(args: &[&str]) -> Output {
    let chart = repository("charts/hello");
    let run = Command::new("helm").args(&args[..1]).arg(chart).args(&args[1..]).output();
    run.expect("helm must be on PATH: cargo xtask test")
}

/// `helm template` with more arguments; what it prints, or its error.
fn template(more: &[&str]) -> Result<String, String> {
    let args = [&["template", "--name-template", RELEASE, "--namespace", NAMESPACE], more].concat();
    let output = helm(&args);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8 from helm");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The chart with one file of values.
struct Rendered {
    /// The file's name without `-values.yaml`.
    name: String,
    text: String,
    objects: Vec<Value>,
}

/// A pod, or the template of one.
struct Pod<'a> {
    kind: &'a str,
    labels: &'a Value,
    spec: &'a Value,
}

impl Rendered {
    fn new(name: &str, more: &[&str]) -> Self {
        let text = template(more).unwrap_or_else(|why| unreachable!("{name}: {why}"));
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML from helm");
        Self { name: name.into(), text, objects }
    }

    fn kind(&self, kind: &str) -> Vec<&Value> {
        self.objects.iter().filter(|object| object["kind"] == kind).collect()
    }

    /// The one object of a kind whose name ends with `end`.
    #[track_caller]
    fn one(&self, kind: &str, end: &str) -> &Value {
        let found: Vec<&Value> =
            self.kind(kind).into_iter().filter(|object| name(object).ends_with(end)).collect();
        assert_eq!(found.len(), 1, "{}: {kind} …{end}", self.name);
        found[0]
    }

    fn pods(&self) -> Vec<Pod<'_>> {
        self.objects.iter().filter_map(Pod::of).collect()
    }
}

impl<'a> Pod<'a> {
    fn of(object: &'a Value) -> Option<Self> {
        let kind = object["kind"].as_str()?;
        let pod = match kind {
            "Deployment" | "StatefulSet" => &object["spec"]["template"],
            "Pod" => object,
            _ => return None,
        };
        Some(Self { kind, labels: &pod["metadata"]["labels"], spec: &pod["spec"] })
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("a name")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Whether labels are what `matchLabels` asks for; a selector that asks for nothing takes all.
fn chosen(selector: &Value, labels: &Value) -> bool {
    selector.as_object().expect("a selector").iter().all(|(key, value)| &labels[key] == value)
}

/// The files of values.
fn files() -> Vec<PathBuf> {
    let dir = fs::read_dir(repository("charts/hello/ci")).expect("charts/hello/ci");
    let mut files: Vec<PathBuf> = dir.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() > 10, "{files:?}");
    files
}

/// The chart with each file of values, rendered once.
fn matrix() -> &'static [Rendered] {
    static MATRIX: LazyLock<Vec<Rendered>> = LazyLock::new(|| {
        let render = |file: &PathBuf| {
            let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
            let name = name.strip_suffix("-values.yaml").expect("…-values.yaml");
            Rendered::new(name, &["--values", file.to_str().expect("UTF-8")])
        };
        files().iter().map(render).collect()
    });
    &MATRIX
}

#[track_caller]
fn rendered(name: &str) -> &'static Rendered {
    matrix().iter().find(|rendered| rendered.name == name).expect(name)
}

/// Runs `charts/check` over manifests: whether all are accepted, and what it prints.
fn check(manifests: &str) -> (bool, String) {
    let mut check = Command::new("chart-check")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("chart-check must be on PATH: cargo xtask test");
    check.stdin.take().expect("stdin").write_all(manifests.as_bytes()).expect("all is read");
    let output = check.wait_with_output().expect("chart-check");
    (output.status.success(), String::from_utf8(output.stdout).expect("UTF-8"))
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn helm_lint_is_content_with_every_file_of_values() {
    for file in files() {
        let output = helm(&["lint", "--strict", "--values", file.to_str().expect("UTF-8")]);
        assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn an_api_server_takes_every_object_and_pods_are_restricted() {
    for Rendered { name, text, .. } in matrix() {
        let (accepted, refused) = check(text);
        assert!(accepted, "{name}: {refused}");
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn the_check_finds_what_is_wrong() {
    let good = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {securityContext: {runAsNonRoot: true, \
                seccompProfile: {type: RuntimeDefault}}, containers: [{name: c, image: i, securityContext: \
                {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]}";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80}]}";
    let certificate = "apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {name: c}\n\
                       spec: {secretName: s, issuerRef: {name: i}, dnsNames: [d]}";
    for fine in [good, service, certificate] {
        assert_eq!(check(fine), (true, String::new()), "{fine}");
    }
    let cases = [
        (good, "runAsNonRoot: true, ", "", "runAsNonRoot != true"),
        (good, "allowPrivilegeEscalation: false", "privileged: true", "privileged"),
        (good, "drop: [ALL]", "drop: []", "unrestricted capabilities"),
        (
            good,
            "image: i",
            "image: i, imagePullPolice: Always",
            "unknown field \"spec.containers[0].imagePullPolice\"",
        ),
        (good, "image: i", "image: i, imagePullPolicy: Sometimes", "Unsupported value: \"Sometimes\""),
        (good, "name: c, ", "", "spec.containers[0].name: Required value"),
        (good, "kind: Pod", "kind: Pods", "neither Kubernetes' own nor defined"),
        (good, "kind: Pod", "kind: Pod\nkind: Pod", "already set"),
        (service, "port: 80", "port: 80000", "must be between 1 and 65535"),
        (service, "port: 80", "port: \"80\"", "port"),
        (service, "[{port: 80}]", "[]", "spec.ports: Required value"),
        (certificate, "secretName: s, ", "", "spec.secretName: Required value"),
        (certificate, "dnsNames: [d]", "dnsName: d", "spec.dnsName: Invalid value: \"\": unknown field"),
        (certificate, "dnsNames: [d]", "privateKey: {algorithm: DSA}", "Unsupported value: \"DSA\""),
        (certificate, "cert-manager.io/v1", "cert-manager.io/v2", "neither Kubernetes' own nor defined"),
        (certificate, certificate, "# nothing", ""),
    ];
    for (fine, old, new, why) in cases {
        assert!(fine.contains(old), "{old}");
        let (accepted, said) = check(&fine.replace(old, new));
        assert!(!accepted && said.contains(why), "{new:?}: {said}");
    }
}
