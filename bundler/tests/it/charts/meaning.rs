//! That the objects of one rendering fit together.

use std::collections::BTreeMap;

use bundler::discover::{Class, discover};
use serde_json::{Value, json};

use super::{Pod, Rendered, chosen, list, matrix, name, rendered, template};

/// Objects with a selector of pods, and where it is.
const SELECTORS: [(&str, &str); 5] = [
    ("Deployment", "/spec/selector/matchLabels"),
    ("StatefulSet", "/spec/selector/matchLabels"),
    ("Service", "/spec/selector"),
    ("PodDisruptionBudget", "/spec/selector/matchLabels"),
    ("NetworkPolicy", "/spec/podSelector/matchLabels"),
];

/// What the service reads from its file: docs/service.md.
const SETTINGS: [&str; 23] = [
    "bind_port",
    "header_timeout_ms",
    "log_format",
    "max_connections",
    "redis_db",
    "redis_host",
    "redis_key",
    "redis_password_file",
    "redis_port",
    "redis_sentinel_master",
    "redis_sentinel_password_file",
    "redis_sentinel_username",
    "redis_sentinels",
    "redis_tls",
    "redis_tls_ca_file",
    "redis_tls_cert_file",
    "redis_tls_key_file",
    "redis_username",
    "request_budget_ms",
    "rust_log",
    "shutdown_grace_ms",
    "bind_address",
    "redis_password",
];

/// The number of a container's port, by number or name.
fn port_of(pod: &Pod<'_>, port: &Value) -> Option<u64> {
    let ports = list(&pod.spec["containers"]).iter().flat_map(|container| list(&container["ports"]));
    let named = |declared: &&Value| &declared["name"] == port || &declared["containerPort"] == port;
    ports.into_iter().find(named)?["containerPort"].as_u64()
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn selectors_choose_the_pods_of_one_workload_and_ports_are_theirs() {
    for rendered in matrix() {
        let pods = rendered.pods();
        for (kind, path) in SELECTORS {
            for object in rendered.kind(kind) {
                let selector = object.pointer(path).expect(path);
                let selected: Vec<&Pod<'_>> =
                    pods.iter().filter(|pod| chosen(selector, pod.labels)).collect();
                let what = format!("{}: {kind}/{}", rendered.name, name(object));
                assert_eq!(selected.len(), 1, "{what}: {selector}");
                assert!(kind == "NetworkPolicy" || selected[0].kind != "Pod", "{what}: the test's pod");
                if kind == "Service" {
                    for port in list(&object["spec"]["ports"]) {
                        assert!(port_of(selected[0], &port["targetPort"]).is_some(), "{what}: {port}");
                    }
                }
                if kind == "NetworkPolicy" {
                    let rules = list(&object["spec"]["ingress"]).iter();
                    for port in rules.flat_map(|rule| list(&rule["ports"])) {
                        assert!(port_of(selected[0], &port["port"]).is_some(), "{what}: {port}");
                    }
                }
            }
        }
        for monitor in rendered.kind("ServiceMonitor") {
            let selector = &monitor["spec"]["selector"]["matchLabels"];
            let services = rendered.kind("Service");
            let services: Vec<_> =
                services.iter().filter(|s| chosen(selector, &s["metadata"]["labels"])).collect();
            assert_eq!(services.len(), 1, "{}: {selector}", rendered.name);
            let port = &monitor["spec"]["endpoints"][0]["port"];
            let ports = list(&services[0]["spec"]["ports"]);
            assert!(ports.iter().any(|declared| &declared["name"] == port), "{}: {port}", rendered.name);
        }
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn routes_and_the_autoscaler_lead_to_the_service() {
    let rendered = rendered("everything");
    let service = rendered.one("Service", "hello");
    let backend = &rendered.one("Ingress", "")["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
    assert_eq!(
        backend,
        &json!({ "name": name(service), "port": { "name": service["spec"]["ports"][0]["name"] } })
    );
    let backend = &rendered.one("HTTPRoute", "")["spec"]["rules"][0]["backendRefs"][0];
    assert_eq!(backend, &json!({ "name": name(service), "port": service["spec"]["ports"][0]["port"] }));
    let target = &rendered.one("HorizontalPodAutoscaler", "")["spec"]["scaleTargetRef"]["name"];
    let deployment = rendered.one("Deployment", "");
    assert_eq!(target, name(deployment));
    assert!(deployment["spec"]["replicas"].is_null(), "the autoscaler decides, not an upgrade");
    let test = &rendered.one("Pod", "test-ready")["spec"]["containers"][0]["args"][1];
    assert_eq!(test, &format!("http://{}:{}/readyz", name(service), service["spec"]["ports"][0]["port"]));
}

/// Whether the policies of a rendering let `from` reach a port of `to`, both in its namespace. Without labels of their
/// namespaces: peers that ask for some match none.
fn reaches(rendered: &Rendered, from: &Value, to: &Pod<'_>, port: &str) -> bool {
    let side = |labels: &Value, direction: &str, peers: &str, other: &Value| {
        let policies = rendered.kind("NetworkPolicy");
        let mut policies = policies
            .iter()
            .filter(|policy| chosen(&policy["spec"]["podSelector"]["matchLabels"], labels))
            .peekable();
        let is_peer = |peer: &Value| {
            let empty = json!({});
            let namespace = peer.get("namespaceSelector").is_none_or(|selector| selector == &empty);
            let pod =
                peer.get("podSelector").is_none_or(|s| chosen(s.get("matchLabels").unwrap_or(&empty), other));
            peer.get("ipBlock").is_none() && namespace && pod
        };
        // What a rule does not name, it does not restrict.
        let lets = |rule: &Value| {
            let (ports, others) = (list(&rule["ports"]), list(&rule[peers]));
            let wanted = port_of(to, &json!(port));
            (ports.is_empty() || ports.iter().any(|declared| port_of(to, &declared["port"]) == wanted))
                && (others.is_empty() || others.iter().any(is_peer))
        };
        policies.peek().is_none() || policies.any(|policy| list(&policy["spec"][direction]).iter().any(lets))
    };
    side(from, "egress", "to", to.labels) && side(to.labels, "ingress", "from", from)
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn network_policies_let_through_what_is_needed() {
    let stranger = json!({ "app.kubernetes.io/name": "stranger" });
    for rendered in matrix() {
        let pods = rendered.pods();
        let pod = |kind| pods.iter().find(|pod| pod.kind == kind);
        let (hello, test) = (pod("Deployment").expect("hello"), pod("Pod").expect("the test"));
        let on = !rendered.kind("NetworkPolicy").is_empty();
        assert_eq!(on, rendered.name != "no-persistence");
        assert!(reaches(rendered, test.labels, hello, "http"), "{}", rendered.name);
        assert_eq!(
            reaches(rendered, &stranger, hello, "http"),
            rendered.name != "everything",
            "{}",
            rendered.name
        );
        let Some(redis) = pod("StatefulSet") else { continue };
        assert!(reaches(rendered, hello.labels, redis, "redis"), "{}", rendered.name);
        for (from, to, port) in
            [(&stranger, redis, "redis"), (test.labels, redis, "redis"), (redis.labels, hello, "http")]
        {
            assert_eq!(reaches(rendered, from, to, port), !on, "{}: {from} to {port}", rendered.name);
        }
        if port_of(redis, &json!("metrics")).is_some() {
            assert!(reaches(rendered, &stranger, redis, "metrics"), "{}", rendered.name);
        }
    }
    let ports = |name| {
        let policy = rendered(name).one("NetworkPolicy", "hello");
        let ports = list(&policy["spec"]["egress"][1]["ports"]).iter().map(|port| port["port"].as_u64());
        ports.collect::<Vec<_>>()
    };
    assert_eq!(ports("external-redis-tls"), [Some(6380)]);
    assert_eq!(ports("sentinel"), [6379, 26379, 26380].map(Some));
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn containers_have_limits_and_a_read_only_root() {
    for rendered in matrix() {
        for container in rendered.pods().iter().flat_map(|pod| list(&pod.spec["containers"])) {
            let what = format!("{}: {}", rendered.name, container["name"]);
            assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{what}");
            for (kind, resource) in
                [("requests", "cpu"), ("requests", "memory"), ("limits", "cpu"), ("limits", "memory")]
            {
                assert!(!container["resources"][kind][resource].is_null(), "{what}: {kind}.{resource}");
            }
        }
    }
}

/// Secrets and ConfigMaps of a rendering, with their keys; for what others fill, the keys that they fill.
fn sources(rendered: &Rendered) -> BTreeMap<(&str, &str), Vec<String>> {
    let keys = |data: &Value| data.as_object().expect("data").keys().cloned().collect();
    let mut sources = BTreeMap::new();
    for object in &rendered.objects {
        match object["kind"].as_str() {
            Some(kind @ ("Secret" | "ConfigMap")) => {
                sources.insert((kind, name(object)), keys(&object["data"]));
            }
            Some("ExternalSecret") => {
                let keys = list(&object["spec"]["data"]).iter();
                let keys = keys.map(|item| item["secretKey"].as_str().expect("a key").to_owned()).collect();
                sources.insert(("Secret", object["spec"]["target"]["name"].as_str().expect("a name")), keys);
            }
            Some("Certificate") => {
                let keys = ["ca.crt", "tls.crt", "tls.key"].map(str::to_owned).to_vec();
                sources.insert(("Secret", object["spec"]["secretName"].as_str().expect("a name")), keys);
            }
            _ => {}
        }
    }
    sources
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn what_pods_refer_to_is_rendered_or_said_to_exist() {
    for rendered in matrix() {
        let sources = sources(rendered);
        let known = |kind: &'static str, reference: &Value, field: &str, keys: Vec<&Value>| {
            let name = reference[field].as_str().expect("a name");
            let there = sources.get(&(kind, name));
            assert!(there.is_some() || name.starts_with("existing-"), "{}: {kind}/{name}", rendered.name);
            for key in keys {
                let key = key.as_str().expect("a key").to_owned();
                assert!(
                    there.is_none_or(|there| there.contains(&key)),
                    "{}: {name} has no {key}",
                    rendered.name
                );
            }
        };
        let mut seen = 0;
        for pod in rendered.pods() {
            for volume in list(&pod.spec["volumes"]) {
                for source in list(&volume["projected"]["sources"]).iter().chain([volume]) {
                    let items = |at: &'_ Value| {
                        list(&at["items"]).iter().map(|item| item["key"].clone()).collect::<Vec<_>>()
                    };
                    if let Some(map) = source.get("configMap") {
                        known("ConfigMap", map, "name", items(map).iter().collect());
                        seen += 1;
                    }
                    if let Some(secret) = source.get("secret") {
                        let field = if secret.get("name").is_some() { "name" } else { "secretName" };
                        known("Secret", secret, field, items(secret).iter().collect());
                        seen += 1;
                    }
                }
            }
            let containers = list(&pod.spec["containers"]).iter();
            for variable in containers.flat_map(|container| list(&container["env"])) {
                if let Some(reference) = variable.pointer("/valueFrom/secretKeyRef") {
                    known("Secret", reference, "name", vec![&reference["key"]]);
                    seen += 1;
                }
            }
            if pod.kind != "Pod" {
                let account = pod.spec["serviceAccountName"].as_str().expect("a service account");
                let made = rendered.kind("ServiceAccount").iter().any(|object| name(object) == account);
                assert!(made || account.starts_with("existing-"), "{}: {account}", rendered.name);
            }
            assert_eq!(pod.spec["automountServiceAccountToken"], false, "{}", rendered.name);
        }
        assert!(seen > 0, "{}", rendered.name);
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn the_configuration_has_known_keys_and_its_files_are_mounted() {
    for rendered in matrix() {
        let config = rendered.one("ConfigMap", if rendered.name == "names" { "atm" } else { "hello" });
        let config: toml::Table = config["data"]["hello.toml"].as_str().expect("TOML").parse().expect("TOML");
        let pods = rendered.pods();
        let spec = pods.iter().find(|pod| pod.kind == "Deployment").expect("a Deployment").spec;
        let container = &spec["containers"][0];
        assert_eq!(container["env"][0], json!({ "name": "CONFIG_FILE", "value": "/etc/hello/hello.toml" }));
        assert_eq!(container["volumeMounts"][0]["mountPath"], "/etc/hello");
        let sources = list(&spec["volumes"][0]["projected"]["sources"]).iter();
        let mounted =
            sources.flat_map(|source| list(&source["secret"]["items"])).map(|item| item["path"].as_str());
        let mut mounted: Vec<String> =
            mounted.map(|path| format!("/etc/hello/{}", path.expect("a path"))).collect();
        for (key, value) in &config {
            assert!(SETTINGS.contains(&key.as_str()), "{}: {key}", rendered.name);
            if key.ends_with("_file") {
                let file = value.as_str().expect("a path");
                assert!(mounted.iter().any(|path| path == file), "{}: {key} = {file}", rendered.name);
                mounted.retain(|path| path != file);
            }
        }
        assert!(mounted.is_empty(), "{}: mounted but not used: {mounted:?}", rendered.name);
        assert!(
            config.contains_key("redis_host") != config.contains_key("redis_sentinels"),
            "{}",
            rendered.name
        );
        assert!(!config.contains_key("redis_password"), "{}", rendered.name);
        let redis = rendered.kind("StatefulSet");
        if let Some(redis) = redis.first() {
            assert_eq!(config["redis_host"].as_str(), Some(name(redis)), "{}", rendered.name);
            let service = rendered.one("Service", "redis");
            assert_eq!(
                Some(config["redis_port"].as_integer()),
                Some(service["spec"]["ports"][0]["port"].as_i64())
            );
        }
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn no_password_is_outside_of_secrets() {
    let rendered = rendered("everything");
    assert!(rendered.text.contains("Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5"), "in the Secret, in base64");
    assert!(!rendered.text.contains("correct-horse-battery"));
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn images_follow_the_global_registry_and_digests() {
    let images = |name| {
        let found = discover(&rendered(name).text).expect("discovery").into_iter();
        let images = found.filter(|found| found.class == Class::Image).map(|found| found.text);
        let mut images: Vec<String> = images.collect();
        images.sort();
        images.dedup();
        images
    };
    let hello = "docker.io/airlock-dev/hello:0.1.0";
    let redis = "docker.io/library/redis:8.10.1-alpine";
    let exporter = "docker.io/oliver006/redis_exporter:v1.88.0";
    assert_eq!(images("defaults"), [hello, redis]);
    let mirrored =
        [hello, redis, exporter].map(|image| image.replace("docker.io", "registry.example.com:5000/mirror"));
    assert_eq!(images("global-registry"), mirrored);
    let digest = |letter: &str| letter.repeat(64);
    assert_eq!(
        images("digest"),
        [format!("{hello}@sha256:{}", digest("a")), format!("{redis}@sha256:{}", digest("b"))]
    );
    for pod in rendered("global-registry").pods() {
        let redis = pod.kind == "StatefulSet";
        let secrets = [json!({ "name": "existing-login" }), json!({ "name": "existing-other" })];
        assert_eq!(list(&pod.spec["imagePullSecrets"]), &secrets[..if redis { 1 } else { 2 }]);
    }
    for rendered in matrix() {
        let found = discover(&rendered.text).expect("discovery");
        let possible: Vec<_> = found.iter().filter(|found| found.class != Class::Image).collect();
        assert!(possible.is_empty(), "{}: `airlock lock` would ask: {possible:?}", rendered.name);
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn pods_roll_when_their_configuration_changes_and_lose_no_request() {
    let deployment = |more: &[&str]| Rendered::new("more", more).one("Deployment", "")["spec"].clone();
    let (first, second) = (deployment(&[]), deployment(&[]));
    assert_eq!(first, second, "nothing changed, nothing rolls");
    let sum = "/template/metadata/annotations/checksum~1config";
    assert_ne!(first.pointer(sum), deployment(&["--set", "config.redisKey=other"]).pointer(sum));
    assert_eq!(first["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    let pod = &first["template"]["spec"];
    assert_eq!(pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"], 5);
    assert_eq!(pod["terminationGracePeriodSeconds"], 20, "the sleep, 10 s of grace, and a reserve");
    let old = &deployment(&["--kube-version", "1.29"])["template"]["spec"];
    assert!(old["containers"][0]["lifecycle"].is_null(), "Kubernetes 1.29 does not know sleep");
    assert_eq!(old["terminationGracePeriodSeconds"], 15);
    let why = template(&["--kube-version", "1.26"]).expect_err("too old");
    assert!(why.contains("requires kubeVersion"), "{why}");
}
