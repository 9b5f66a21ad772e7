//! Docker's engine: `daemon.json`, which knows mirrors of Docker Hub and of nothing else.

use serde_json::json;

use super::{NodeConfig, NodeFile, Settings};
use crate::error::{Error, Result};

pub fn configure(settings: &Settings) -> Result<NodeConfig> {
    let registry = settings.mapping.registry();
    let refuse = |why: String, hint: &str| {
        Err(Error::input(format!("making {registry} a mirror for Docker's engine"), why).hint(hint))
    };
    let hub = settings.hosts.contains("docker.io");
    if !hub {
        return refuse(
            "Docker knows mirrors of docker.io only, and the bundle has no image of it".into(),
            "install with rewritten references, which need no mirror: airlock install",
        );
    }
    // Docker asks a mirror for `library/redis`, without the source's host; it refuses a mirror with a path.
    if let Some(path) = settings.mapping.host("docker.io")
        && !(settings.from_serve && path == "docker.io")
    {
        return refuse(
            format!("Docker asks a mirror for images at its root, and there they are below {path}"),
            "push with --strip-host and without a prefix, and say --strip-host here too; or, if the registry is `airlock \
             serve`, which answers at its root as well, say --from-serve",
        );
    }
    if let Some(repository) = settings.ambiguous.first().filter(|_| settings.from_serve) {
        return refuse(
            format!(
                "{repository} is a repository of docker.io and of another host, and Docker does not say which it wants"
            ),
            "install with rewritten references, which need no mirror: airlock install",
        );
    }
    let mut daemon = json!({"registry-mirrors": [settings.url()]});
    if settings.plain_http {
        daemon["insecure-registries"] = json!([registry]);
    }
    let content =
        serde_json::to_string_pretty(&daemon).map_err(|e| Error::input("writing daemon.json", e))?;
    let mut files = vec![NodeFile { path: "etc/docker/daemon.json".into(), content: content + "\n" }];
    let ca_file = format!("etc/docker/certs.d/{registry}/ca.crt");
    files.extend(settings.ca.iter().map(|ca| NodeFile { path: ca_file.clone(), content: ca.clone() }));
    let mut notes = vec![
        "Docker asks Docker Hub itself when the mirror has no such image; that can't be turned off".into(),
        "where there is a daemon.json already, add these settings to it by hand; then systemctl reload docker".into(),
        "on a node: docker pull NAME".into(),
    ];
    let others: Vec<&str> = settings.mirrored().filter(|host| *host != "docker.io").collect();
    if !others.is_empty() {
        notes.insert(0, format!(
            "Docker has no mirrors for {}: their images are found only by references that are rewritten to {registry}",
            others.join(", ")
        ));
    }
    Ok(NodeConfig { files, notes })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{content, settings};
    use super::*;

    #[test]
    fn a_mirror_of_docker_hub_is_at_the_registrys_root() {
        let mut settings = settings("site:5000", true, &["docker.io", "quay.io"]);
        settings.plain_http = true;
        let config = configure(&settings).expect("a configuration");
        let daemon: serde_json::Value =
            serde_json::from_str(content(&config, "etc/docker/daemon.json")).expect("JSON");
        let expected =
            json!({"registry-mirrors": ["http://site:5000"], "insecure-registries": ["site:5000"]});
        assert_eq!(daemon, expected);
        assert!(config.notes[0].contains("no mirrors for quay.io"), "{config:?}");
    }

    #[test]
    fn what_docker_cannot_do_is_refused_by_name() {
        for (target, strip, from_serve, hosts, said) in [
            ("site:5000", false, false, &["docker.io"][..], "below docker.io"),
            ("site:5000/a", true, false, &["docker.io"], "below a"),
            ("site:5000/a", false, true, &["docker.io"], "below a/docker.io"),
            ("site:5000", true, false, &["quay.io"], "no image of it"),
        ] {
            let mut settings = settings(target, strip, hosts);
            settings.from_serve = from_serve;
            let error = configure(&settings).expect_err(target);
            assert!(error.to_string().contains(said), "{error}");
            assert!(error.hint_text().is_some());
        }
        let mut settings = settings("site:5000", false, &["docker.io", "quay.io"]);
        settings.from_serve = true;
        configure(&settings).expect("a configuration");
        settings.ambiguous.insert("library/redis".into());
        let error = configure(&settings).expect_err("two of them");
        assert!(error.to_string().contains("library/redis is a repository of docker.io and"), "{error}");
    }
}
