//! What looks like a reference, asked of its registry.
//!
//! A text out of a chart is told to a registry only if a pod spec names that registry or the user lists it, never if it
//! stands in a Secret or a comment, and never to an address inside (private, link-local, loopback) that the user didn't list:
//! whoever writes a chart must not be able to send this machine's requests, or its strings, where he likes.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;

use super::{Class, Found};
use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::registry::{Client, Presence};

/// References that are asked for at a time.
const PARALLEL: usize = 8;

/// Whom to ask.
#[derive(Debug, Default)]
pub struct Asking {
    /// Registries that are asked although no pod spec names them, or that are inside.
    pub listed: BTreeSet<String>,
    /// References that were confirmed before, in full.
    pub known: BTreeSet<Reference>,
    /// Whether a registry that can't be reached is an answer ("not confirmed"), or a failure.
    pub forgiving: bool,
}

/// Makes certain what the registries have, and says of the rest why it is not. `all` is what was found in all charts.
///
/// # Errors
/// When a registry can't be reached: what is certain must not depend on luck.
pub async fn confirm(all: &mut [Found], asking: &Asking, client: &Client) -> Result<()> {
    let images: BTreeSet<Reference> = all.iter().filter(|f| f.is_wanted()).filter_map(Found::full).collect();
    let named: BTreeSet<&str> =
        images.iter().map(Reference::registry).chain(asking.listed.iter().map(String::as_str)).collect();
    let mut answers: BTreeMap<Reference, Result<(), String>> = BTreeMap::new();
    let mut open = BTreeSet::new();
    for reference in all.iter().filter(|f| f.is_open()).filter_map(Found::full) {
        if images.contains(&reference) || asking.known.contains(&reference) {
            answers.insert(reference, Ok(()));
        } else if named.contains(reference.registry()) {
            open.insert(reference);
        } else {
            let registry = reference.registry();
            let why =
                format!("{registry} is not asked: no pod spec names it, nor `registries` in bundle.toml");
            answers.insert(reference, Err(why));
        }
    }
    let jobs = futures_util::stream::iter(open).map(|reference| async move {
        ask(&reference, asking, client).await.map(|answer| (reference, answer))
    });
    let asked: Vec<Result<_>> = jobs.buffered(PARALLEL).collect().await;
    let mut failures = Vec::new();
    for outcome in asked {
        match outcome {
            Ok((reference, answer)) => drop(answers.insert(reference, answer)),
            Err(failure) => failures.push(failure),
        }
    }
    if !failures.is_empty() {
        return Err(Error::all("asking registries for images", failures));
    }
    for found in all.iter_mut().filter(|f| f.is_open()) {
        match found.full().and_then(|reference| answers.get(&reference)) {
            Some(Ok(())) => found.class = Class::Certain,
            Some(Err(why)) => found.why = Some(why.clone()),
            None => {}
        }
    }
    Ok(())
}

async fn ask(reference: &Reference, asking: &Asking, client: &Client) -> Result<Result<(), String>> {
    let registry = reference.registry();
    if !asking.listed.contains(registry) && client.leads_inside(registry).await {
        return Ok(Err(format!(
            "{registry} is at an address inside, and not in `registries` of bundle.toml"
        )));
    }
    let repository = client.repository(registry, reference.repository());
    match repository.presence(&reference.tag_or_digest()).await {
        Ok(Presence::There) => Ok(Ok(())),
        Ok(Presence::Absent) => Ok(Err(format!("{registry} has no such image"))),
        Ok(Presence::Refused(status)) => Ok(Err(format!("{registry} refuses to say (HTTP {status})"))),
        Err(error) if asking.forgiving => Ok(Err(format!("{registry} could not be asked: {error}"))),
        Err(error) => Err(error.within(format!("asking whether {reference} is an image"))),
    }
}
