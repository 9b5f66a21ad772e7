//! The cluster's certificates, keys and tokens, made by openssl; good for a year.

use std::fs;
use std::path::Path;

use super::files::{ADDRESS, NODE, Paths, USERS};
use crate::sh::{command, output, run, text};
use crate::{Failure, Outcome};

/// Makes `pki/` and the kubeconfigs below the cluster's directory.
///
/// # Errors
/// When openssl fails, or a file can't be written.
pub fn make(paths: &Paths) -> Outcome {
    let dir = Path::new(paths.dir).join("pki");
    fs::create_dir_all(&dir).map_err(|e| format!("making {}: {e}", dir.display()))?;
    let request = |name: &str, subject: &str, more: &[&str]| {
        let (key, certificate) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.pem")));
        let new = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "365",
        ];
        let to = ["-subj", subject, "-keyout", text(&key)?, "-out", text(&certificate)?];
        run(&mut command("openssl", &[&new[..], &to, more].concat()))
    };
    request("ca", "/CN=airlock test cluster", &[])?;
    let (ca, ca_key) = (dir.join("ca.pem"), dir.join("ca.key"));
    let signed = [
        "-CA",
        text(&ca)?,
        "-CAkey",
        text(&ca_key)?,
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-addext",
    ];
    let names = format!(
        "subjectAltName=IP:{ADDRESS},IP:127.0.0.1,IP:10.43.0.1,DNS:{NODE},DNS:localhost,DNS:kubernetes,\
         DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
    );
    request("api", "/CN=kube-apiserver", &[&signed[..], &[&names]].concat())?;
    let client = [&signed[..], &["extendedKeyUsage=clientAuth"]].concat();
    request("kubelet-client", "/O=system:masters/CN=kube-apiserver", &client)?;
    let accounts = dir.join("accounts.key");
    let new =
        ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", text(&accounts)?];
    run(&mut command("openssl", &new))?;
    let public = dir.join("accounts.pub");
    run(&mut command("openssl", &["pkey", "-in", text(&accounts)?, "-pubout", "-out", text(&public)?]))?;

    let mut tokens = String::new();
    for (file, user, groups) in USERS {
        let token = output(&mut command("openssl", &["rand", "-hex", "16"]))?;
        tokens.push_str(&format!("{token},{user},{user},\"{groups}\"\n"));
        write(&Path::new(paths.dir).join(format!("{file}.kubeconfig")), &paths.kubeconfig(&token))?;
    }
    write(&dir.join("tokens.csv"), &tokens)
}

/// Writes a file.
///
/// # Errors
/// When it can't be written.
pub fn write(file: &Path, content: &str) -> Result<(), Failure> {
    fs::write(file, content).map_err(|e| format!("writing {}: {e}", file.display()))
}
