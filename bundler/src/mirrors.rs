//! A verified bundle -> configuration of nodes, by which they pull every image under its own name from the site's registry.
//!
//! For what no manifest shows: pods that operators make at run time name images as they were named upstream. One entry for
//! each source host of the bundle says where that host's repositories are at the site ([`Mapping::host`]). By default nothing
//! outside is asked, not even as a last resort: behind an air gap that is a pull that hangs, and elsewhere an image that
//! nobody signed.

mod check;
mod containerd;
mod crio;
mod docker;
mod k3s;
mod write;

use std::collections::BTreeSet;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::push;
use crate::reference::Mapping;
use crate::verify::VerifiedBundle;

pub use check::{Verdict, check_containerd};
pub use write::{State, write};

/// First line of every file that is ours, so that it may be replaced. Certificates carry it too: PEM readers skip it.
pub const MARK: &str =
    "# Written by `airlock mirrors`; a change made here is lost when it is written again.\n";

/// What pulls images on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// containerd 1.6 or newer.
    Containerd,
    /// k3s, with the containerd in it.
    K3s,
    /// RKE2, with the containerd in it.
    Rke2,
    /// CRI-O, podman, and all else that reads `registries.conf`.
    Crio,
    /// Docker's engine.
    Docker,
}

/// What the configuration is to say.
#[derive(Clone, Debug)]
pub struct Settings {
    mapping: Mapping,
    /// Source hosts of the images.
    hosts: BTreeSet<String>,
    /// Repositories that two source hosts have: without the host in the name they can't be told apart.
    ambiguous: BTreeSet<String>,
    /// PEM of who signed the registry's certificate.
    ca: Option<String>,
    plain_http: bool,
    keep_upstream: bool,
    from_serve: bool,
}

/// How the site's registry is reached, beside its name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choices {
    /// The registry speaks plain HTTP.
    pub plain_http: bool,
    /// Ask the source's own registry after the site's.
    pub keep_upstream: bool,
    /// The registry is `airlock serve`, which also answers names without the source's host.
    pub from_serve: bool,
}

/// A file of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeFile {
    /// Its path on the node, without the leading slash.
    pub path: String,
    /// Its content.
    pub content: String,
}

/// All that a node needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeConfig {
    /// The files, in the order of their paths.
    pub files: Vec<NodeFile>,
    /// What is to be done beside writing them.
    pub notes: Vec<String>,
}

impl Settings {
    /// For the images of a bundle that are, or will be, where `mapping` says. `ca` is a PEM text.
    ///
    /// # Errors
    /// When the bundle has no images, two of them would be in the same place, or `ca` is no certificate.
    pub fn new(
        bundle: &VerifiedBundle,
        mapping: Mapping,
        ca: Option<String>,
        choices: Choices,
    ) -> Result<Self> {
        if mapping.is_flat() {
            let why = "nodes are told where a whole host's repositories are, and with --flat they have no common place";
            return Err(Error::input("writing mirror configuration", why).hint(
                "use references that `airlock install --flat` or `airlock rewrite --flat` rewrites, or a registry that allows \
                 deeper paths, such as `airlock serve`",
            ));
        }
        push::check(bundle, &mapping)?;
        let images = || bundle.manifest().images.iter().map(|image| &image.reference);
        let hosts: BTreeSet<String> = images().map(|image| image.registry().to_owned()).collect();
        if hosts.is_empty() {
            return Err(Error::input("writing mirror configuration", "the bundle has no images"));
        }
        let elsewhere = |a: &_| images().any(|b| b.repository() == *a && b.registry() != "docker.io");
        let hub = images().filter(|image| image.registry() == "docker.io");
        let ambiguous = hub.map(|image| image.repository()).filter(elsewhere).map(Into::into).collect();
        let ca = ca.map(|pem| certificates(&pem)).transpose()?;
        let Choices { plain_http, keep_upstream, from_serve } = choices;
        if plain_http && ca.is_some() {
            return Err(Error::input("writing mirror configuration", "plain HTTP knows no certificates")
                .hint("leave out --plain-http or --ca-file"));
        }
        Ok(Self { mapping, hosts, ambiguous, ca, plain_http, keep_upstream, from_serve })
    }

    /// `https://REGISTRY`.
    fn url(&self) -> String {
        let scheme = if self.plain_http { "http" } else { "https" };
        format!("{scheme}://{}", self.mapping.registry())
    }

    /// Hosts whose images are mirrored. The site's registry can't be its own mirror: under its name the rewritten
    /// references are found.
    fn mirrored(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(String::as_str).filter(|host| *host != self.mapping.registry())
    }
}

/// Only the certificates of a PEM file: a private key that lies beside them must not get onto every node.
fn certificates(pem: &str) -> Result<String> {
    let reading = "reading the certificate for nodes";
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| Error::input(reading, e.to_string()))?;
    if found.is_empty() {
        return Err(Error::input(reading, "there is no certificate in it")
            .hint("it must be PEM: -----BEGIN CERTIFICATE-----"));
    }
    let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----\n");
    let blocks = pem.split(begin).skip(1).filter_map(|rest| rest.split_once(end.trim_end()));
    let mut text = MARK.to_owned();
    blocks.for_each(|(block, _)| text += &format!("{begin}{}{end}", block.replace('\r', "")));
    Ok(text)
}

/// The configuration for nodes with `runtime`.
///
/// # Errors
/// When the runtime can't do it: each reason is named.
pub fn configure(runtime: Runtime, settings: &Settings) -> Result<NodeConfig> {
    let mut config = match runtime {
        Runtime::Containerd => containerd::configure(settings),
        Runtime::K3s => k3s::configure(settings, "k3s"),
        Runtime::Rke2 => k3s::configure(settings, "rke2"),
        Runtime::Crio => crio::configure(settings),
        Runtime::Docker => docker::configure(settings)?,
    };
    config.files.sort_by(|a, b| a.path.cmp(&b.path));
    if settings.hosts.contains(settings.mapping.registry()) {
        config.notes.push(format!(
            "images of {0} itself have no mirror: under that name nodes find the rewritten references",
            settings.mapping.registry()
        ));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate; nobody has its key.
    pub const CA: &str = "-----BEGIN CERTIFICATE-----
MIIBkzCCATmgAwIBAgIUXk0NGp9psc05cUIZi/SOyWi5JF8wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJci5leGFtcGxlMB4XDTI2MTEyNDAyNTM1NVoXDTM2MTEyMTAy
NTM1NVowFDESMBAGA1UEAwwJci5leGFtcGxlMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEvucofPx6ZUPU6HJcoybgM/r2inrHIf7EyYL8bQjEcrhFcOhxzmzNZMX3
dsk4Z6XlJIIS9a9WJfjPX1fT81xnKqNpMGcwHQYDVR0OBBYEFEu/yxeWdcGK8k4O
luMPOc7rh6HGMB8GA1UdIwQYMBaAFEu/yxeWdcGK8k4OluMPOc7rh6HGMA8GA1Ud
EwEB/wQFMAMBAf8wFAYDVR0RBA0wC4IJci5leGFtcGxlMAoGCCqGSM49BAMCA0gA
MEUCIEx0mWHUD89jhV+7B/G0OYz8/04SDcSc8ORD7IImU7qAAiEAjaKBBzvrbV2H
0PgWbB9AQFpG4NI14L8p6nv6XTVxAu0=
-----END CERTIFICATE-----
";

    /// Settings without a bundle.
    pub fn settings(target: &str, strip_host: bool, hosts: &[&str]) -> Settings {
        Settings {
            mapping: Mapping::new(target, strip_host).expect(target),
            hosts: hosts.iter().map(ToString::to_string).collect(),
            ambiguous: BTreeSet::new(),
            ca: None,
            plain_http: false,
            keep_upstream: false,
            from_serve: false,
        }
    }

    /// The file at a path.
    pub fn content<'a>(config: &'a NodeConfig, path: &str) -> &'a str {
        let found = config.files.iter().find(|file| file.path == path);
        &found.unwrap_or_else(|| unreachable!("no {path} in {config:?}")).content
    }

    #[test]
    fn only_certificates_get_onto_nodes() {
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let two = format!("subject=x\n{CA}{key}{}", CA.replace('\n', "\r\n"));
        assert_eq!(certificates(&two).expect("two certificates"), format!("{MARK}{CA}{CA}"));
        for text in ["", key, "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n"] {
            assert!(certificates(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_sites_registry_is_not_its_own_mirror() {
        let settings = settings("site:5000/a", false, &["docker.io", "site:5000"]);
        for runtime in [Runtime::Containerd, Runtime::K3s, Runtime::Rke2, Runtime::Crio] {
            let config = configure(runtime, &settings).expect("a configuration");
            assert!(config.notes.iter().any(|note| note.contains("site:5000 itself")), "{config:?}");
            assert!(!config.files.iter().any(|file| file.content.contains("site_5000")), "{config:?}");
        }
    }
}
