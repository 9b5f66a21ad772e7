//! Rendered manifests -> the references to images in them.
//!
//! Nothing that could be a reference disappears silently: what is not sure is reported as possible. How sure depends on
//! the place, on what the text is called, and on what its registry says; never on a list of known charts:
//!
//! | class | what | `lock` |
//! |---|---|---|
//! | image | a pod spec's image, at any depth of any object; image volumes | takes it |
//! | certain | looks like a reference where it stands, and its registry has it ([`confirm`](confirm::confirm)) | takes it |
//! | possible | looks like one, but nobody said that it is | reports it |
//! | unreadable | a pod spec's image that is no reference | fails |
//!
//! Text is looked at wherever it stands: args, commands, environment, annotations, custom resources, files within
//! ConfigMaps and Secrets (also encoded, and documents within documents). Not looked at are keys.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::error::Result;
use crate::reference::Reference;
use crate::yaml::Stream;

pub mod charts;
pub mod confirm;
mod fields;
pub mod mention;
pub mod place;
pub(crate) mod words;

use mention::{Exchange, Mention, Role, Visitor};
use place::Kind;

/// A reference in rendered manifests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Found {
    /// Release of the chart that has it, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// As written; of separate fields put together.
    pub text: String,
    /// What it says; none where that can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// The object and the path in it: `Deployment/web spec.template.spec.containers[0].image`.
    pub place: String,
    /// The environment variable that has it; an index in a place tells nobody its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// What kind of place that is.
    pub kind: Kind,
    /// How sure it is that this is an image.
    pub class: Class,
    /// Why it is not asked for, or what was said; for what is possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Found {
    /// Whether it belongs in a lock. What does not is reported to the user.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        matches!(self.class, Class::Image | Class::Certain)
    }

    /// Whether its registry may be asked.
    fn is_open(&self) -> bool {
        self.class == Class::Possible && self.why.is_none()
    }

    /// The place, with the name of an environment variable.
    #[must_use]
    pub fn place_named(&self) -> String {
        match &self.variable {
            Some(variable) => format!("{} (env {variable})", self.place),
            None => self.place.clone(),
        }
    }

    /// The reference in full, if it is one.
    #[must_use]
    pub fn full(&self) -> Option<Reference> {
        self.reference.as_ref().map(Reference::normalised)
    }
}

/// How sure it is that a text is a reference to an image; the order is from sure to unsure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// A pod spec has it.
    Image,
    /// Its registry has it.
    Certain,
    /// It looks like one.
    Possible,
    /// A pod spec has it, and it is no reference: a placeholder, or a value that is missing.
    Unreadable,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Certain => "certain",
            Self::Possible => "possible",
            Self::Unreadable => "unreadable",
        })
    }
}

/// Why no registry is asked for what stands in a Secret.
const SECRET: &str = "it stands in a Secret: no registry is asked";
/// Why no registry is asked for what stands in a comment.
const REMARK: &str = "it stands in a comment or description";

/// Returns those of `texts` that stand in rendered manifests where `map` in bundle.toml takes them for images.
///
/// # Errors
/// When the manifests are not YAML.
pub(crate) fn meant<'t>(manifests: &str, texts: &BTreeSet<&'t str>) -> Result<BTreeSet<&'t str>> {
    struct Meant<'t, 'a> {
        texts: &'a BTreeSet<&'t str>,
        seen: BTreeSet<&'t str>,
    }
    impl Visitor for Meant<'_, '_> {
        fn means(&self, text: &str) -> bool {
            self.texts.contains(text)
        }

        fn visit(&mut self, mention: &Mention<'_>) -> Result<Option<Exchange>> {
            self.seen.extend(self.texts.get(&*mention.text).copied());
            Ok(None)
        }
    }
    let mut visitor = Meant { texts, seen: BTreeSet::new() };
    mention::walk(&Stream::parse(manifests)?, &mut visitor)?;
    Ok(visitor.seen)
}

/// Every reference in a stream of rendered manifests, at each of its places, in the order of the stream. Nobody has been
/// asked yet: there are none that are certain.
///
/// # Errors
/// When the manifests are not YAML.
pub fn discover(manifests: &str) -> Result<Vec<Found>> {
    let mut finder = Finder { found: vec![] };
    mention::walk(&Stream::parse(manifests)?, &mut finder)?;
    Ok(finder.found)
}

struct Finder {
    found: Vec<Found>,
}

impl Visitor for Finder {
    fn visit(&mut self, mention: &Mention<'_>) -> Result<Option<Exchange>> {
        let is_pod = mention.role == Role::PodImage;
        let class = if is_pod { Class::Image } else { Class::Possible };
        let why = match mention.role {
            Role::Doubtful => return Ok(None),
            // A schema's documentation.
            Role::Remark if mention.spot.is_schema() => return Ok(None),
            Role::Word
                if (!mention.text.contains('/') && !words::has_plausible_tag(&mention.text))
                    || mention.spot.is_identity() =>
            {
                return Ok(None);
            }
            Role::PodImage => None,
            _ if mention.spot.is_secret() => Some(SECRET.into()),
            Role::Remark => Some(REMARK.into()),
            _ if mention.spot.is_prose() => Some(REMARK.into()),
            _ => None,
        };
        let (reference, class, why) = match mention.text.parse::<Reference>() {
            Ok(reference) => (Some(reference), class, why),
            Err(e) if is_pod => (None, Class::Unreadable, Some(e.to_string())),
            Err(_) => return Ok(None),
        };
        self.found.push(Found {
            release: None,
            text: mention.text.clone().into_owned(),
            reference,
            place: mention.spot.to_string(),
            variable: mention.spot.variable(),
            kind: mention.spot.kind(is_pod),
            class,
            why,
        });
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
