//! Alerts and the dashboard: Prometheus' own tests, and that they speak of what there is.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{list, rendered, repository};
use crate::parts::succeed;

/// Names of the service's metrics: docs/service.md.
pub const METRICS: [&str; 13] = [
    "hello_build_info",
    "hello_connections",
    "hello_connections_refused_total",
    "hello_http_request_duration_seconds_bucket",
    "hello_http_request_duration_seconds_count",
    "hello_http_requests_in_flight",
    "hello_http_requests_total",
    "hello_redis_connects_total",
    "hello_redis_errors_total",
    "hello_redis_round_trip_seconds_bucket",
    "hello_redis_up",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
];

fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).expect(path)
}

/// Rules and alerts of `files/alerts.yaml`.
fn rules() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(&read("charts/hello/files/alerts.yaml")).expect("YAML");
    list(&file["groups"]).iter().flat_map(|group| list(&group["rules"])).cloned().collect()
}

/// Queries of the dashboard, with its variables filled in.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("charts/hello/files/dashboard.json")).expect("JSON");
    let targets = list(&dashboard["panels"]).iter().flat_map(|panel| list(&panel["targets"]));
    let query = |target: &Value| {
        let query = target["expr"].as_str().expect("a query");
        let filled =
            query.replace("$namespace", ".*").replace("$job", "hello").replace("$__rate_interval", "1m");
        assert!(!filled.contains('$'), "{query}");
        filled
    };
    targets.map(query).collect()
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn alerts_pass_prometheus_tests() {
    let tests = repository("charts/check/alerts_test.yaml");
    succeed(
        Command::new("promtool").args(["check", "rules"]).arg(repository("charts/hello/files/alerts.yaml")),
    );
    succeed(Command::new("promtool").args(["test", "rules"]).arg(&tests));
    let tested = fs::read_to_string(tests).expect("the tests");
    for rule in rules() {
        let Some(alert) = rule["alert"].as_str() else { continue };
        let fires = format!("alertname: {alert}\n        exp_alerts:");
        assert!(tested.contains(&fires), "no test in which {alert} fires");
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_releases_rules_are_about_itself() {
    let rendered = rendered("everything");
    let spec = &rendered.one("PrometheusRule", "")["spec"];
    let temporary = tempfile::tempdir().expect("a directory");
    let file = temporary.path().join("rules.yaml");
    fs::write(&file, spec.to_string()).expect("written");
    succeed(Command::new("promtool").args(["check", "rules"]).arg(&file));
    let all: Vec<&Value> = list(&spec["groups"]).iter().flat_map(|group| list(&group["rules"])).collect();
    assert_eq!(all.len(), rules().len());
    for rule in &all {
        let expr = rule["expr"].as_str().expect("a query");
        let service = expr.matches("namespace=\"site\",job=\"demo-hello\"").count();
        let redis = expr.matches("namespace=\"site\",job=\"demo-redis\"").count();
        assert_eq!(service + redis, expr.matches("job=\"").count(), "{expr}");
        assert!(service + redis > 0, "{expr}");
    }
    let memory = all.iter().find(|rule| rule["alert"] == "HelloMemoryNearLimit").expect("the alert");
    assert!(memory["expr"].as_str().is_some_and(|expr| expr.ends_with("> 0.8 * 134217728")), "{memory}");
    let groups = |name| list(&super::rendered(name).one("PrometheusRule", "")["spec"]["groups"]).len();
    assert_eq!((groups("everything"), groups("names")), (4, 3), "Redis' own alerts need its exporter");
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn the_dashboards_queries_are_promql() {
    let rules: Vec<Value> =
        queries().iter().map(|query| serde_json::json!({ "record": "query", "expr": query })).collect();
    assert!(rules.len() > 20, "{rules:?}");
    let temporary = tempfile::tempdir().expect("a directory");
    let file = temporary.path().join("queries.yaml");
    let groups = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    fs::write(&file, groups.to_string()).expect("written");
    succeed(Command::new("promtool").args(["check", "rules", "--lint=none"]).arg(&file));
    let carried = rendered("everything").one("ConfigMap", "dashboard")["data"]["hello.json"].clone();
    assert_eq!(
        carried.as_str().map(str::trim_end),
        Some(read("charts/hello/files/dashboard.json").trim_end())
    );
}

#[test]
fn queries_are_about_metrics_that_exist() {
    let rules = rules();
    let recorded: BTreeSet<&str> = rules.iter().filter_map(|rule| rule["record"].as_str()).collect();
    let queries = queries();
    let queries =
        rules.iter().filter_map(|rule| rule["expr"].as_str()).chain(queries.iter().map(String::as_str));
    let mut used = BTreeSet::new();
    for query in queries {
        let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
        let ours =
            |word: &&str| ["hello_", "hello:", "process_"].iter().any(|prefix| word.starts_with(prefix));
        used.extend(words.filter(ours));
    }
    assert!(used.len() > 20, "{used:?}");
    for word in used {
        assert!(METRICS.contains(&word) || recorded.contains(word), "{word}");
    }
}

#[test]
fn every_alert_has_a_runbook() {
    let page = read("docs/monitoring.md");
    let headings: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let rules = rules();
    let alerts: BTreeSet<&str> = rules.iter().filter_map(|rule| rule["alert"].as_str()).collect();
    assert_eq!(headings, alerts);
    for rule in &rules {
        let Some(alert) = rule["alert"].as_str() else { continue };
        let url = rule["annotations"]["runbook_url"].as_str().expect("a runbook");
        assert!(url.ends_with(&format!("/docs/monitoring.md#{}", alert.to_lowercase())), "{url}");
    }
}
