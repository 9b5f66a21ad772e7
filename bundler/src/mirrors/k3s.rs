//! k3s and RKE2: `registries.yaml` (docs.k3s.io, "Private Registry Configuration"), from which they make containerd's
//! configuration at their start.

use std::fmt::Write as _;

use super::{MARK, NodeConfig, NodeFile, Settings};

pub fn configure(settings: &Settings, product: &str) -> NodeConfig {
    let dir = format!("etc/rancher/{product}");
    let (url, registry) = (settings.url(), settings.mapping.registry());
    let mut text = format!("{MARK}mirrors:\n");
    for host in settings.mirrored() {
        let _ = write!(text, "  \"{host}\":\n    endpoint:\n      - \"{url}\"\n");
        if let Some(path) = settings.mapping.host(host) {
            let _ = write!(text, "    rewrite:\n      \"^(.*)$\": \"{path}/$1\"\n");
        }
    }
    // References that are rewritten to the site name it itself.
    if settings.plain_http {
        let _ = write!(text, "  \"{registry}\":\n    endpoint:\n      - \"{url}\"\n");
    }
    let mut files = vec![];
    if let Some(ca) = &settings.ca {
        let ca_file = format!("{dir}/airlock-ca.crt");
        let _ = write!(text, "configs:\n  \"{registry}\":\n    tls:\n      ca_file: \"/{ca_file}\"\n");
        files.push(NodeFile { path: ca_file, content: ca.clone() });
    }
    files.push(NodeFile { path: format!("{dir}/registries.yaml"), content: text });
    let mut notes = vec![format!("restart {product} on the node: it reads registries.yaml at its start")];
    if !settings.keep_upstream {
        let content = format!("{MARK}disable-default-registry-endpoint: true\n");
        files.push(NodeFile { path: format!("{dir}/config.yaml.d/50-airlock.yaml"), content });
        notes.push(format!(
            "50-airlock.yaml keeps {product} from asking the sources' own registries; releases before January 2024 \
             (1.26.13, 1.27.10, 1.28.6, 1.29.1) don't know it and go on to them when the site has no such image"
        ));
    }
    notes.push(format!("on a node: {product} crictl pull NAME"));
    NodeConfig { files, notes }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::super::tests::{content, settings};
    use super::*;

    /// What the documentation says of the file, as far as it is used here.
    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Registries {
        mirrors: BTreeMap<String, Mirror>,
        #[serde(default)]
        configs: BTreeMap<String, Config>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Mirror {
        endpoint: Vec<String>,
        #[serde(default)]
        rewrite: BTreeMap<String, String>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Config {
        tls: Tls,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Tls {
        ca_file: String,
    }

    fn parsed(config: &NodeConfig, product: &str) -> Registries {
        let text = content(config, &format!("etc/rancher/{product}/registries.yaml"));
        serde_saphyr::from_str(text).expect(text)
    }

    #[test]
    fn names_are_rewritten_to_the_sites_paths() {
        for (target, strip, host, endpoint, path) in [
            ("site:5000", false, "docker.io", "https://site:5000", Some("docker.io/$1")),
            ("site.example/a/b", false, "h:5000", "https://site.example", Some("a/b/h_5000/$1")),
            ("site.example/a/b", true, "h:5000", "https://site.example", Some("a/b/$1")),
            ("site:5000", true, "quay.io", "https://site:5000", None),
        ] {
            let mirrors = parsed(&configure(&settings(target, strip, &[host]), "k3s"), "k3s").mirrors;
            let rewrite = path.map(|path| ("^(.*)$".into(), path.into())).into_iter().collect();
            let mirror = Mirror { endpoint: vec![endpoint.into()], rewrite };
            assert_eq!(mirrors, [(host.into(), mirror)].into());
        }
    }

    #[test]
    fn trust_plain_http_and_the_last_resort_are_said() {
        let mut settings = settings("site:5000/a", false, &["docker.io"]);
        settings.ca = Some("CA".into());
        let config = configure(&settings, "rke2");
        assert_eq!(
            parsed(&config, "rke2").configs["site:5000"].tls.ca_file,
            "/etc/rancher/rke2/airlock-ca.crt"
        );
        assert_eq!(content(&config, "etc/rancher/rke2/airlock-ca.crt"), "CA");
        let only = content(&config, "etc/rancher/rke2/config.yaml.d/50-airlock.yaml");
        assert!(only.ends_with("\ndisable-default-registry-endpoint: true\n"), "{only}");
        (settings.ca, settings.plain_http, settings.keep_upstream) = (None, true, true);
        let config = configure(&settings, "rke2");
        assert_eq!(config.files.len(), 1);
        assert_eq!(parsed(&config, "rke2").mirrors["site:5000"].endpoint, ["http://site:5000"]);
    }
}
