//! CRI-O, podman, buildah, skopeo: a drop-in of `registries.conf` (containers-registries.conf(5)).

use std::fmt::Write as _;

use super::{MARK, NodeConfig, NodeFile, Settings};

pub fn configure(settings: &Settings) -> NodeConfig {
    let registry = settings.mapping.registry();
    let insecure = if settings.plain_http { "insecure = true\n" } else { "" };
    let mut text = MARK.to_owned();
    if settings.hosts.contains("docker.io") {
        text += "\n# `redis:8` without a host means docker.io to Kubernetes; here it has to be said.\n\
                 unqualified-search-registries = [\"docker.io\"]\n";
    }
    for host in settings.mirrored() {
        let path = settings.mapping.host(host).map(|path| format!("/{path}")).unwrap_or_default();
        let site = format!("location = \"{registry}{path}\"\n{insecure}");
        let _ = match settings.keep_upstream {
            // Another location, so that nothing is pulled from outside; the name stays.
            false => write!(text, "\n[[registry]]\nprefix = \"{host}\"\n{site}"),
            true => write!(
                text,
                "\n[[registry]]\nprefix = \"{host}\"\nlocation = \"{host}\"\n\n[[registry.mirror]]\n{site}"
            ),
        };
    }
    // References that are rewritten to the site name it itself.
    if settings.plain_http {
        let _ =
            write!(text, "\n[[registry]]\nprefix = \"{registry}\"\nlocation = \"{registry}\"\n{insecure}");
    }
    let mut files =
        vec![NodeFile { path: "etc/containers/registries.conf.d/50-airlock.conf".into(), content: text }];
    let ca_file = format!("etc/containers/certs.d/{registry}/ca.crt");
    files.extend(settings.ca.iter().map(|ca| NodeFile { path: ca_file.clone(), content: ca.clone() }));
    let notes = vec![
        "CRI-O reads them after `systemctl reload crio`; podman at once".into(),
        "on a node: crictl pull NAME (by the kubelet's way), or podman pull NAME".into(),
    ];
    NodeConfig { files, notes }
}

#[cfg(test)]
mod tests {
    use toml::Value;

    use super::super::tests::{content, settings};
    use super::*;

    fn parsed(config: &NodeConfig) -> Value {
        toml::from_str(content(config, "etc/containers/registries.conf.d/50-airlock.conf")).expect("TOML")
    }

    #[test]
    fn a_host_is_moved_to_the_site_or_has_it_as_a_mirror() {
        let mut settings = settings("site:5000/a", false, &["docker.io", "h:5000"]);
        let file = parsed(&configure(&settings));
        assert_eq!(file["unqualified-search-registries"][0].as_str(), Some("docker.io"));
        for (n, (host, path)) in [("docker.io", "docker.io"), ("h:5000", "h_5000")].into_iter().enumerate() {
            let entry = &file["registry"][n];
            assert_eq!(entry["prefix"].as_str(), Some(host));
            assert_eq!(entry["location"].as_str(), Some(format!("site:5000/a/{path}").as_str()));
        }
        (settings.keep_upstream, settings.plain_http) = (true, true);
        let file = parsed(&configure(&settings));
        let entry = &file["registry"][1];
        assert_eq!(entry["location"].as_str(), Some("h:5000"));
        assert_eq!(entry["mirror"][0]["location"].as_str(), Some("site:5000/a/h_5000"));
        assert_eq!(entry["mirror"][0]["insecure"].as_bool(), Some(true));
        assert!(entry.get("insecure").is_none());
        assert_eq!(file["registry"][2]["location"].as_str(), Some("site:5000"));
    }

    #[test]
    fn without_the_host_all_is_below_the_prefix() {
        let file = parsed(&configure(&settings("site:5000", true, &["quay.io"])));
        assert_eq!(file["registry"][0]["location"].as_str(), Some("site:5000"));
        assert!(file.get("unqualified-search-registries").is_none());
    }
}
