//! What a registry shows to anybody: every tag, and whether all that it leads to is there and is what its digest says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Broken;
use crate::Failure;

/// Digests by `REPOSITORY:TAG`, below a prefix.
pub type Tags = BTreeMap<String, String>;

const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// Whoever has sent a manifest may be gone, and the registry still about to tag it: it lists a tag a moment before it has it.
const TAGGING: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);

/// Every tag below a prefix, with all that it leads to read and hashed.
pub fn whole(host: &str, prefix: &str) -> Result<Tags, Broken> {
    look(host, prefix, false)
}

/// The same but for tags that the registry itself can't read: CNCF distribution's files of tags are empty when its disk was full.
pub fn readable(host: &str, prefix: &str) -> Result<Tags, Broken> {
    look(host, prefix, true)
}

fn look(host: &str, prefix: &str, is_lenient: bool) -> Result<Tags, Broken> {
    let (mut tags, mut read) = (Tags::new(), BTreeSet::new());
    let catalog = json(host, "/v2/_catalog?n=1000")?.unwrap_or_default();
    let repositories = catalog["repositories"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for repository in repositories.filter(|name| name.starts_with(&format!("{prefix}/"))) {
        // A repository with blobs only has no list of tags.
        let listed = json(host, &format!("/v2/{repository}/tags/list"))?.unwrap_or_default();
        for tag in listed["tags"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let digest = match manifest(host, repository, tag, &mut read) {
                Err(Broken::Failed(why)) if is_lenient && why.contains(" 500 ") => continue,
                outcome => outcome?,
            };
            let name = repository.trim_start_matches(prefix).trim_start_matches('/');
            tags.insert(format!("{name}:{tag}"), digest);
        }
    }
    Ok(tags)
}

/// Reads a manifest, and everything below it; its digest. What was `read` in another repository has to be there.
fn manifest(
    host: &str,
    repository: &str,
    reference: &str,
    read: &mut BTreeSet<String>,
) -> Result<String, Broken> {
    let at = format!("{repository}:{reference}");
    let end = Instant::now() + TAGGING;
    let bytes = loop {
        match get(host, &format!("/v2/{repository}/manifests/{reference}"))? {
            Some(bytes) => break bytes,
            None if Instant::now() > end => {
                return Err(Broken::Half(format!("{at} is listed, and is not there")));
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let digest = digest(&bytes);
    if reference.starts_with("sha256:") && reference != digest {
        return Err(Broken::Half(format!("{at} is {digest}")));
    }
    let parsed: Value = serde_json::from_slice(&bytes).map_err(|e| Broken::Half(format!("{at}: {e}")))?;
    for child in parsed["manifests"].as_array().into_iter().flatten().filter_map(|m| m["digest"].as_str()) {
        manifest(host, repository, child, read)?;
    }
    let parts = parsed["layers"].as_array().into_iter().flatten().chain([&parsed["config"]]);
    for blob in parts.filter_map(|part| part["digest"].as_str()).collect::<BTreeSet<_>>() {
        let path = format!("/v2/{repository}/blobs/{blob}");
        let is_there = match read.contains(blob) {
            true => ask(host, "HEAD", &path)?.is_some(),
            false => get(host, &path)?.is_some_and(|content| self::digest(&content) == blob),
        };
        if !is_there {
            return Err(Broken::Half(format!("{at} needs {blob}, which is missing or another")));
        }
        read.insert(blob.into());
    }
    Ok(digest)
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn json(host: &str, path: &str) -> Result<Option<Value>, Failure> {
    let Some(bytes) = get(host, path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("http://{host}{path}: {e}"))
}

fn get(host: &str, path: &str) -> Result<Option<Vec<u8>>, Failure> {
    ask(host, "GET", path)
}

/// A body; none for 404. Asked by HTTP/1.0, so that it ends with the connection and never comes in chunks.
fn ask(host: &str, method: &str, path: &str) -> Result<Option<Vec<u8>>, Failure> {
    let failed = |why: &dyn std::fmt::Display| format!("http://{host}{path}: {why}");
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(host)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: {host}\r\nAccept: {ACCEPT}\r\n\r\n")?;
        let mut answer = vec![];
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(|e| failed(&e))?;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or_else(|| failed(&"no answer"))?;
    match answer.split(|b| *b == b' ').nth(1) {
        Some(b"200") => Ok(Some(answer[end + 4..].to_vec())),
        Some(b"404") => Ok(None),
        _ => Err(failed(&String::from_utf8_lossy(&answer[..end]))),
    }
}
