//! Where an image comes from, by skopeo's transport names.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::digest::Digest;
use crate::reference::Reference;

/// `images[].from` in `bundle.toml`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `docker://REF`: a registry.
    Registry(Reference),
    /// Anything else.
    Local(LocalSource),
}

/// A place on this machine that has images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalSource {
    /// `oci:PATH[:TAG]`: an OCI image layout in a directory.
    Oci {
        /// The directory.
        path: PathBuf,
        /// `org.opencontainers.image.ref.name` of the image, or its digest.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: an OCI image layout in a tar file.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// As for `oci`.
        tag: Option<String>,
    },
    /// `docker-archive:FILE[:REF]`: what `docker save` writes.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// Which of its images.
        reference: Option<Reference>,
    },
    /// `docker-daemon:REF`: an image of the Docker engine.
    DockerDaemon(EngineImage),
}

/// How the Docker engine is asked for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineImage {
    /// By name.
    Name(Reference),
    /// By ID.
    Id(Digest),
}

impl fmt::Display for EngineImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(reference) => reference.fmt(f),
            Self::Id(digest) => digest.fmt(f),
        }
    }
}

/// Why a text is no source of images.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TransportError {
    /// A transport that is not known, or none.
    #[error(
        "{0:?} names no source of images: expected docker://REF, oci:PATH[:TAG], oci-archive:FILE[:TAG], \
         docker-archive:FILE[:REF] or docker-daemon:REF"
    )]
    Unknown(String),
    /// No path, or an empty tag.
    #[error("{0:?} lacks a path, or the tag after it")]
    Incomplete(String),
    /// Not a reference.
    #[error("{0:?} does not name an image: {1}")]
    Reference(String, String),
}

impl FromStr for Transport {
    type Err = TransportError;

    fn from_str(text: &str) -> Result<Self, TransportError> {
        let unknown = || TransportError::Unknown(text.into());
        let incomplete = || TransportError::Incomplete(text.into());
        let reference = |name: &str| {
            name.parse::<Reference>()
                .map(|r| r.normalised())
                .map_err(|e| TransportError::Reference(text.into(), e.to_string()))
        };
        let (transport, rest) = text.split_once(':').ok_or_else(unknown)?;
        // As skopeo reads it: a path has no colon.
        let (path, name) = match rest.split_once(':') {
            Some((path, name)) => (path, Some(name)),
            None => (rest, None),
        };
        let file = || match (path, name) {
            ("", _) | (_, Some("")) => Err(incomplete()),
            _ => Ok((PathBuf::from(path), name.map(str::to_owned))),
        };
        Ok(match transport {
            "docker" => Self::Registry(reference(rest.strip_prefix("//").ok_or_else(unknown)?)?),
            "oci" => file().map(|(path, tag)| Self::Local(LocalSource::Oci { path, tag }))?,
            "oci-archive" => file().map(|(path, tag)| Self::Local(LocalSource::OciArchive { path, tag }))?,
            "docker-archive" => {
                let (path, name) = file()?;
                let reference = name.as_deref().map(reference).transpose()?;
                Self::Local(LocalSource::DockerArchive { path, reference })
            }
            "docker-daemon" => Self::Local(LocalSource::DockerDaemon(match rest.parse() {
                Ok(id) => EngineImage::Id(id),
                Err(_) => EngineImage::Name(reference(rest)?),
            })),
            _ => return Err(unknown()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn reference(text: &str) -> Reference {
        text.parse().expect(text)
    }

    #[test]
    fn skopeos_names_are_read() {
        let local = |text: &str| match text.parse() {
            Ok(Transport::Local(source)) => source,
            other => unreachable!("{text}: {other:?}"),
        };
        let oci =
            |path: &str, tag: Option<&str>| LocalSource::Oci { path: path.into(), tag: tag.map(Into::into) };
        assert_eq!(local("oci:a/b"), oci("a/b", None));
        assert_eq!(local("oci:/a/b:docker.io/x:1"), oci("/a/b", Some("docker.io/x:1")));
        assert_eq!(
            local("oci-archive:a.tar:1"),
            LocalSource::OciArchive { path: "a.tar".into(), tag: Some("1".into()) }
        );
        let full = Some(reference("docker.io/library/redis:8"));
        let path: PathBuf = "a.tar".into();
        assert_eq!(
            local("docker-archive:a.tar:redis:8"),
            LocalSource::DockerArchive { path, reference: full }
        );
        assert_eq!(
            local("docker-daemon:localhost:5000/x:1"),
            LocalSource::DockerDaemon(EngineImage::Name(reference("localhost:5000/x:1")))
        );
        let id = EngineImage::Id(ID.parse().expect("a digest"));
        assert_eq!(local(&format!("docker-daemon:{ID}")), LocalSource::DockerDaemon(id));
        assert_eq!("docker://x/y:1".parse(), Ok(Transport::Registry(reference("docker.io/x/y:1"))));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "redis", "docker:redis", "dir:x", "containers-storage:x", "OCI:x"] {
            let error = text.parse::<Transport>().expect_err(text);
            assert_eq!(error, TransportError::Unknown(text.into()));
            assert!(error.to_string().contains("docker-archive:FILE[:REF]"), "{error}");
        }
        for text in ["oci:", "oci::x", "oci:x:", "oci-archive:", "docker-archive::x"] {
            assert_eq!(text.parse::<Transport>(), Err(TransportError::Incomplete(text.into())));
        }
        for text in ["docker://", "docker-daemon:", "docker-daemon:X Y", "docker-archive:a:B c"] {
            let error = text.parse::<Transport>();
            assert!(matches!(error, Err(TransportError::Reference(..))), "{text}: {error:?}");
        }
    }
}
