//! containerd: `certs.d/HOST/hosts.toml` (containerd, docs/hosts.md).

use std::fmt::Write as _;

use super::{MARK, NodeConfig, NodeFile, Settings};

/// Where containerd's own packages and most guides have it.
const CERTS_D: &str = "etc/containerd/certs.d";

pub fn configure(settings: &Settings) -> NodeConfig {
    let mut files = vec![];
    for host in settings.mirrored() {
        let path = settings.mapping.host(host).map(|path| format!("/{path}")).unwrap_or_default();
        let mirror = format!("{}/v2{path}", settings.url());
        let upstream = match host {
            "docker.io" => "https://registry-1.docker.io".into(),
            _ => format!("https://{host}"),
        };
        let outside = settings.keep_upstream.then_some(upstream);
        directory(&mut files, settings, host, &hosts_toml(settings, &mirror, outside.as_deref()));
    }
    // References that are rewritten to the site name it itself.
    if settings.ca.is_some() || settings.plain_http {
        let url = settings.url();
        // containerd 1.6 takes a file without any `host` for a broken one.
        let rest = authority(settings);
        let text = format!("{MARK}server = \"{url}\"\n{rest}\n[host.\"{url}\"]\n{rest}");
        directory(&mut files, settings, settings.mapping.registry(), &text);
    }
    let notes = vec![
        "containerd reads them only where its configuration says so; see `--check-config /etc/containerd/config.toml`. In \
         config.toml of version 2 (containerd 1.6, 1.7):\n    [plugins.\"io.containerd.grpc.v1.cri\".registry]\n      \
         config_path = \"/etc/containerd/certs.d\"\n  and of version 3 (containerd 2):\n    \
         [plugins.\"io.containerd.cri.v1.images\".registry]\n      config_path = \"/etc/containerd/certs.d\""
            .into(),
        "containerd reads hosts.toml at each pull: only a change of config.toml needs a restart".into(),
        "on a node: crictl pull NAME (by the kubelet's way), or ctr images pull --hosts-dir /etc/containerd/certs.d NAME"
            .into(),
    ];
    NodeConfig { files, notes }
}

/// Both the mirror and the last resort: without `server`, containerd goes on to the host itself.
fn hosts_toml(settings: &Settings, mirror: &str, upstream: Option<&str>) -> String {
    let rest =
        format!("capabilities = [\"pull\", \"resolve\"]\noverride_path = true\n{}", authority(settings));
    let mut text = MARK.to_owned();
    let _ = match upstream {
        Some(upstream) => writeln!(text, "server = \"{upstream}\""),
        None => write!(
            text,
            "# No other server is asked, so that nothing is pulled from outside.\nserver = \"{mirror}\"\n{rest}"
        ),
    };
    let _ = write!(text, "\n[host.\"{mirror}\"]\n{rest}");
    text
}

fn authority(settings: &Settings) -> &'static str {
    // Relative to the file's directory.
    if settings.ca.is_some() { "ca = \"ca.crt\"\n" } else { "" }
}

fn directory(files: &mut Vec<NodeFile>, settings: &Settings, host: &str, hosts_toml: &str) {
    let path = |name: &str| format!("{CERTS_D}/{host}/{name}");
    files.push(NodeFile { path: path("hosts.toml"), content: hosts_toml.into() });
    files.extend(settings.ca.iter().map(|ca| NodeFile { path: path("ca.crt"), content: ca.clone() }));
}

#[cfg(test)]
mod tests {
    use toml::Value;

    use super::super::tests::{content, settings};
    use super::*;

    fn parsed(config: &NodeConfig, host: &str) -> Value {
        let text = content(config, &format!("etc/containerd/certs.d/{host}/hosts.toml"));
        toml::from_str(text).expect(text)
    }

    #[test]
    fn a_host_is_one_path_at_the_site() {
        for (target, strip, host, url) in [
            ("site:5000", false, "docker.io", "https://site:5000/v2/docker.io"),
            ("site.example/a/b", false, "h:5000", "https://site.example/v2/a/b/h_5000"),
            ("site.example/a/b", true, "h:5000", "https://site.example/v2/a/b"),
            ("site:5000", true, "quay.io", "https://site:5000/v2"),
        ] {
            let file = parsed(&configure(&settings(target, strip, &[host])), host);
            for table in [&file, &file["host"][url]] {
                assert_eq!(table["override_path"].as_bool(), Some(true), "{file}");
                assert_eq!(table["capabilities"].to_string(), "[\"pull\", \"resolve\"]");
                assert!(table.get("ca").is_none());
            }
            assert_eq!(file["server"].as_str(), Some(url));
        }
    }

    #[test]
    fn the_source_is_the_last_resort_only_if_that_is_asked_for() {
        let mut settings = settings("site:5000", false, &["docker.io", "quay.io"]);
        settings.keep_upstream = true;
        settings.ca = Some("CA".into());
        let config = configure(&settings);
        for (host, server) in [("docker.io", "https://registry-1.docker.io"), ("quay.io", "https://quay.io")]
        {
            let file = parsed(&config, host);
            assert_eq!(file["server"].as_str(), Some(server));
            assert!(file.get("override_path").is_none() && file.get("ca").is_none(), "{file}");
            assert_eq!(
                file["host"][format!("https://site:5000/v2/{host}").as_str()]["ca"].as_str(),
                Some("ca.crt")
            );
            assert_eq!(content(&config, &format!("etc/containerd/certs.d/{host}/ca.crt")), "CA");
        }
    }

    #[test]
    fn the_site_itself_is_trusted_or_spoken_to_in_plain_http() {
        let mut settings = settings("site:5000/a", false, &["docker.io"]);
        assert_eq!(configure(&settings).files.len(), 1);
        settings.plain_http = true;
        assert_eq!(parsed(&configure(&settings), "site:5000")["server"].as_str(), Some("http://site:5000"));
        settings.plain_http = false;
        settings.ca = Some("CA".into());
        let config = configure(&settings);
        assert_eq!(parsed(&config, "site:5000")["ca"].as_str(), Some("ca.crt"));
        assert_eq!(content(&config, "etc/containerd/certs.d/site:5000/ca.crt"), "CA");
    }
}
