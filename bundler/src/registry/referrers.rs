//! What belongs to a manifest, as a registry lists it (distribution spec, "Listing Referrers").

use reqwest::header::{ACCEPT, HeaderValue};
use reqwest::{Method, StatusCode};

use super::MANIFEST_CAP;
use super::http::Call;
use super::repository::{Access, Manifest, Presence, Repository};
use crate::digest::Digest;
use crate::error::Result;
use crate::image::OCI_INDEX;

impl Repository {
    /// The index of all that refers to a manifest; none where the registry lists no referrers.
    ///
    /// # Errors
    /// When the registry can't be reached.
    pub async fn referrers(&self, subject: &Digest) -> Result<Option<Manifest>> {
        let subject = subject.to_string();
        let action = format!("asking what refers to {}", self.named(&subject));
        let mut call = Call::new(Method::GET, self.url(&["referrers", &subject]).await?);
        call.headers.append(ACCEPT, HeaderValue::from_static(OCI_INDEX));
        // Registries that know no such path say so in several ways.
        let accepted = [
            StatusCode::OK,
            StatusCode::NOT_FOUND,
            StatusCode::BAD_REQUEST,
            StatusCode::UNAUTHORIZED,
            StatusCode::FORBIDDEN,
            StatusCode::METHOD_NOT_ALLOWED,
            StatusCode::NOT_ACCEPTABLE,
        ];
        let response = self.request(&action, Access::Pull, &call, &accepted).await?;
        if response.status() != StatusCode::OK {
            return Ok(None);
        }
        let bytes = self.read(response, &action, &call.url, MANIFEST_CAP).await?;
        Ok(Some(Manifest { digest: Digest::of(&bytes), media_type: OCI_INDEX.into(), bytes }))
    }

    /// The digest of a manifest that may be there: a registry that refuses to say has it not.
    ///
    /// # Errors
    /// When the registry can't be reached.
    pub async fn find_manifest(&self, tag: &str) -> Result<Option<Digest>> {
        match self.presence(tag).await? {
            Presence::There => self.head_manifest(tag).await,
            Presence::Absent | Presence::Refused(_) => Ok(None),
        }
    }
}
