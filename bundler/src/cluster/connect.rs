//! From a kubeconfig to a client. `kube` reads the file, makes the TLS settings and signs requests; the connection is
//! ours, for names are resolved in Rust here, and a host may have no CA files (see `registry/names.rs`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tower::ServiceExt as _;

use super::{Cluster, root_cause};
use crate::child::PASSWORDS;
use crate::error::{Error, Result};
use crate::file;
use crate::registry::names::Names;
use crate::registry::proxies::Proxies;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest that a login program of the kubeconfig may take: somebody may have to open a browser.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(120);
const DOING: &str = "reading the kubeconfig";
const HINT: &str = "name a kubeconfig by KUBECONFIG, and one of its contexts by --kube-context";

pub(super) async fn connect(context: Option<&str>) -> Result<Cluster> {
    let (mut config, proxy) = configuration(context).await?;
    if config.root_cert.is_none() && config.root_cert_file.is_none() {
        // Else `kube` would ask a verifier that needs CA files, even where certificates are not checked.
        let native = rustls_native_certs::load_native_certs().certs;
        config.root_cert = Some(native.iter().map(|certificate| certificate.to_vec()).collect());
    }
    let (namespace, server) = (config.default_namespace.clone(), config.cluster_url.to_string());
    // A login program is run here, and waited for.
    let runtime = tokio::runtime::Handle::current();
    let building = tokio::task::spawn_blocking(move || {
        let _inside = runtime.enter();
        client(&config, proxy.as_ref())
    });
    let client = match tokio::time::timeout(LOGIN_TIMEOUT, building).await {
        Ok(Ok(client)) => client?,
        Ok(Err(e)) => return Err(Error::cluster(DOING, e)),
        Err(_) => {
            let why = format!("its login program has not answered for {} seconds", LOGIN_TIMEOUT.as_secs());
            return Err(
                Error::cluster(DOING, why).hint("run `kubectl get --raw /version` to see what it asks")
            );
        }
    };
    Ok(Cluster { client, namespace, server: server.trim_end_matches('/').into() })
}

/// The settings, and the proxy to go through.
async fn configuration(context: Option<&str>) -> Result<(Config, Option<http::Uri>)> {
    let refuse = |e: &dyn std::error::Error| Error::cluster(DOING, one_text(e)).hint(HINT);
    check_kubeconfigs()?;
    let kubeconfig = match Kubeconfig::read() {
        Ok(mut kubeconfig) => {
            check_files(&kubeconfig)?;
            keep_secrets(&mut kubeconfig);
            kubeconfig
        }
        // A pod's own service account; helm does the same.
        Err(e) if context.is_none() && is_missing(&e) => {
            let none = |_| match e {
                KubeconfigError::FindPath => {
                    let why = "there is none: neither KUBECONFIG nor ~/.kube/config leads to one";
                    Error::cluster(DOING, why).hint(HINT)
                }
                other => refuse(&other),
            };
            return Ok((Config::incluster().map_err(none)?, None));
        }
        Err(e) => return Err(refuse(&e)),
    };
    let named = proxy_of(&kubeconfig, context);
    let has: Vec<String> = kubeconfig.contexts.iter().map(|c| c.name.clone()).collect();
    let options = KubeConfigOptions { context: context.map(Into::into), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|e| match e {
        KubeconfigError::LoadContext(name) => Error::cluster(DOING, format!("it has no context {name:?}"))
            .hint(format!("it has these contexts: {}", has.join(", "))),
        other => refuse(&other),
    })?;
    let proxy = match named {
        Some(url) => {
            let url = url.parse().map_err(|_| Error::cluster(DOING, "its proxy-url is not a URL"))?;
            Some(url)
        }
        None => proxy_of_environment(&config.cluster_url),
    };
    Ok((config, proxy))
}

/// Refuses kubeconfigs that are no regular files: a pipe would be waited for.
fn check_kubeconfigs() -> Result<()> {
    let named = std::env::var_os("KUBECONFIG").filter(|paths| !paths.is_empty());
    let own = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".kube/config"));
    let paths: Vec<PathBuf> = match named {
        Some(paths) => std::env::split_paths(&paths).collect(),
        None => own().into_iter().collect(),
    };
    paths.iter().try_for_each(|path| check_file(path))
}

/// The same for the files that a kubeconfig names.
fn check_files(kubeconfig: &Kubeconfig) -> Result<()> {
    let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let users = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    let of_users = users.flat_map(|user| [&user.client_certificate, &user.client_key, &user.token_file]);
    let paths = clusters.map(|cluster| &cluster.certificate_authority).chain(of_users);
    paths.flatten().try_for_each(|path| check_file(Path::new(path)))
}

fn check_file(path: &Path) -> Result<()> {
    match file::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::Other => {
            Err(Error::input(format!("reading {}", path.display()), e))
        }
        // What is missing may not be needed, and is named where it is.
        _ => Ok(()),
    }
}

/// Keeps passwords of keys from the programs that a kubeconfig names.
fn keep_secrets(kubeconfig: &mut Kubeconfig) {
    for user in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        if let Some(exec) = &mut user.exec {
            exec.drop_env.get_or_insert_default().extend(PASSWORDS.map(Into::into));
        }
        if let Some(provider) = &mut user.auth_provider {
            let dropped = provider.config.entry("cmd-drop-env".into()).or_default();
            *dropped = format!("{dropped} {}", PASSWORDS.join(" "));
        }
    }
}

fn is_missing(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::FindPath => true,
        KubeconfigError::ReadConfig(e, _) => e.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// `kube` says what file it was and why, but the reason is a level below.
fn one_text(error: &dyn std::error::Error) -> String {
    let (text, cause) = (error.to_string(), root_cause(error));
    if text.contains(&cause) { text } else { format!("{text}: {cause}") }
}

/// The proxy that the kubeconfig itself names for its cluster.
fn proxy_of(kubeconfig: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let name = context.or(kubeconfig.current_context.as_deref())?;
    let context = kubeconfig.contexts.iter().find(|c| c.name == name)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|c| c.name == context.cluster)?.cluster.as_ref()?;
    cluster.proxy_url.clone().filter(|url| !url.is_empty())
}

/// The proxy that the environment names for the cluster, by the same rules as for registries.
fn proxy_of_environment(server: &http::Uri) -> Option<http::Uri> {
    let proxies = Proxies::read(|name| std::env::var(name).ok());
    let proxy = proxies.of(&reqwest::Url::parse(&server.to_string()).ok()?)?;
    // A name without a scheme is an HTTP proxy.
    let text = if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") };
    text.parse().ok()
}

fn client(config: &Config, proxy: Option<&http::Uri>) -> Result<Client> {
    let mut direct = HttpConnector::new_with_resolver(Names::default());
    direct.enforce_http(false);
    direct.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let Some(proxy) = proxy else { return over(direct, config) };
    match proxy.scheme_str() {
        Some("http") => over(Tunnel::new(proxy.clone(), direct), config),
        Some("socks5") => over(SocksV5::new(proxy.clone(), direct), config),
        other => {
            let scheme = other.unwrap_or("none");
            Err(Error::cluster(
                "reaching the cluster through its proxy",
                format!("its scheme {scheme:?} is not known"),
            )
            .hint("proxies are http:// or socks5://; NO_PROXY names hosts that are reached without"))
        }
    }
}

fn over<C>(connector: C, config: &Config) -> Result<Client>
where
    C: tower::Service<http::Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<tower::BoxError>,
{
    let refuse = |e: kube::Error| Error::cluster(DOING, one_text(&e)).hint(HINT);
    let connector = config.rustls_https_connector_with_connector(connector).map_err(refuse)?;
    let http = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let headers = config.extra_headers_layer().map_err(refuse)?;
    let http = http.map_err(tower::BoxError::from);
    let builder = ClientBuilder::new(http, &config.default_namespace)
        .with_layer(&config.base_uri_layer())
        .with_layer(&headers);
    Ok(match config.auth_layer().map_err(refuse)? {
        Some(auth) => builder.with_layer(&auth).build(),
        None => builder.build(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_of_a_kubeconfig_get_no_password() {
        let text = "apiVersion: v1\nkind: Config\nusers:\n\
                    - {name: a, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: plugin}}}\n\
                    - {name: b, user: {auth-provider: {name: gcp, config: {cmd-path: gcloud, cmd-drop-env: X}}}}\n";
        let mut kubeconfig = Kubeconfig::from_yaml(text).expect("a kubeconfig");
        keep_secrets(&mut kubeconfig);
        let user = |n: usize| kubeconfig.auth_infos[n].auth_info.clone().expect("a user");
        let exec = user(0).exec.expect("a plugin");
        assert_eq!(exec.drop_env, Some(PASSWORDS.map(String::from).to_vec()));
        let provider = user(1).auth_provider.expect("a provider");
        assert_eq!(provider.config["cmd-drop-env"], "X AIRLOCK_PASSWORD COSIGN_PASSWORD");
    }

    #[test]
    fn pipes_that_a_kubeconfig_names_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let pipe = directory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).expect("a pipe");
        let pipe = pipe.display();
        for text in [
            format!("clusters: [{{name: a, cluster: {{certificate-authority: {pipe}}}}}]"),
            format!("users: [{{name: a, user: {{client-certificate: {pipe}}}}}]"),
            format!("users: [{{name: a, user: {{client-key: {pipe}}}}}]"),
            format!("users: [{{name: a, user: {{tokenFile: {pipe}}}}}]"),
        ] {
            let kubeconfig = Kubeconfig::from_yaml(&text).expect("a kubeconfig");
            let error = check_files(&kubeconfig).expect_err(&text).to_string();
            assert!(error.contains("a named pipe"), "{error}");
        }
    }
}
