//! Whether containerd's own configuration reads `certs.d`.

use serde::Serialize;
use toml::{Table, Value};

use crate::error::{Error, Result};

/// The CRI plugin's part for images, by version of the file: 1, 2 and 3.
const PLUGINS: [&str; 3] = ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"];

/// What a `config.toml` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether `certs.d` is read.
    pub reads_certs_d: bool,
    /// Why, and what to do about it.
    pub why: String,
}

/// Reads containerd's `config.toml`; `certs_d` is the directory that is to be read. Files that it imports are not followed.
///
/// # Errors
/// When the text is not TOML, or its version is unknown.
pub fn check_containerd(text: &str, certs_d: &str) -> Result<Verdict> {
    let reading = "reading containerd's configuration";
    let file: Table = toml::from_str(text).map_err(|e| Error::input(reading, e))?;
    let version = file.get("version").and_then(Value::as_integer).unwrap_or(1);
    let plugin =
        usize::try_from(version).ok().and_then(|n| PLUGINS.get(n.checked_sub(1)?)).ok_or_else(|| {
            Error::input(
                reading,
                format!("it has version {version}; versions 1 to {} are known", PLUGINS.len()),
            )
        })?;
    let no = |why: String| Ok(Verdict { reads_certs_d: false, why });
    let disabled = file.get("disabled_plugins").and_then(Value::as_array);
    let is_cri = |name: &Value| matches!(name.as_str(), Some("cri" | "io.containerd.grpc.v1.cri"));
    if disabled.is_some_and(|names| names.iter().any(is_cri)) {
        return no("it disables the CRI plugin, so no kubelet can use this containerd: take it out of disabled_plugins".into());
    }
    let registry = file.get("plugins").and_then(|plugins| plugins.get(plugin)?.get("registry"));
    let old = ["mirrors", "configs"].into_iter().find(|name| {
        let table = registry.and_then(|registry| registry.get(name)?.as_table());
        // `configs` holds logins, too, which are allowed.
        table.is_some_and(|table| match *name {
            "mirrors" => !table.is_empty(),
            _ => table.values().any(|host| host.get("tls").is_some()),
        })
    });
    if let Some(old) = old {
        return no(format!(
            "it has registry.{old}, which containerd refuses beside config_path: take it out of [plugins.\"{plugin}\"]"
        ));
    }
    let section = format!("[plugins.\"{plugin}\".registry]");
    let path =
        registry.and_then(|registry| registry.get("config_path")?.as_str()).filter(|path| !path.is_empty());
    match path {
        // containerd 2's own default.
        None if version == 3 && certs_d == "/etc/containerd/certs.d" => Ok(Verdict {
            reads_certs_d: true,
            why: format!("containerd 2 reads {certs_d} where {section} says nothing"),
        }),
        None => no(format!("add config_path = \"{certs_d}\" to {section}, and restart containerd")),
        Some(path) if path.split(':').any(|dir| dir.trim_end_matches('/') == certs_d) => {
            Ok(Verdict { reads_certs_d: true, why: format!("{section} has config_path = \"{path}\"") })
        }
        Some(path) => no(format!(
            "{section} has config_path = \"{path}\": put the hosts' directories there, or name {certs_d}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_of_the_file_is_understood() {
        let v2 = "[plugins.\"io.containerd.grpc.v1.cri\".registry]\n";
        let v3 = "[plugins.'io.containerd.cri.v1.images'.registry]\n";
        let path = "config_path = \"/etc/containerd/certs.d\"\n";
        for (text, reads, said) in [
            (String::new(), false, "add config_path"),
            ("disabled_plugins = [\"cri\"]\n".into(), false, "disables the CRI plugin"),
            (format!("[plugins.cri.registry]\n{path}"), true, "has config_path"),
            (format!("version = 2\n{v2}{path}"), true, "has config_path"),
            (format!("version = 2\n{v2}config_path = \"\"\n"), false, "add config_path"),
            (format!("version = 2\n{v3}{path}"), false, "grpc.v1.cri\".registry"),
            (format!("version = 2\n{v2}config_path = \"/x\"\n"), false, "config_path = \"/x\""),
            (
                format!(
                    "version = 2\n{v2}{path}[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\n"
                ),
                false,
                "registry.mirrors",
            ),
            (
                format!(
                    "version = 2\n{v2}{path}[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.x.tls]\n"
                ),
                false,
                "registry.configs",
            ),
            (
                format!(
                    "version = 2\n{v2}{path}[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.x.auth]\n"
                ),
                true,
                "has config_path",
            ),
            ("version = 3\n".into(), true, "containerd 2 reads"),
            (
                format!("version = 3\n{v3}config_path = '/etc/containerd/certs.d:/etc/docker/certs.d'\n"),
                true,
                "has",
            ),
        ] {
            let verdict = check_containerd(&text, "/etc/containerd/certs.d").expect(&text);
            assert_eq!(verdict.reads_certs_d, reads, "{text}");
            assert!(verdict.why.contains(said), "{verdict:?}");
        }
        for text in ["=", "version = 4", "version = 0", "version = -9223372036854775808"] {
            assert!(check_containerd(text, "/etc/containerd/certs.d").is_err(), "{text}");
        }
    }
}
