//! The Secret with the CA, and the requests for another one in its annotations.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, api::PostParams};

use super::{Registration, RegistrationError, Written, outcome, within};

/// The Secret that holds the CA.
const SECRET: &str = "fencegate-ca";
/// The only key in its data.
const KEY: &str = "authority.json";
/// Its annotation with which a person requests another CA: with any value that is new.
pub const ROTATE: &str = "fencegate.dev/rotate-ca";
/// Its annotation with the last request that was carried out.
const ROTATED: &str = "fencegate.dev/rotated-ca";

/// The Secret as it was read; a write replaces exactly this version.
#[derive(Debug)]
pub struct StoredSecret {
    /// Empty if the Secret lacks its key.
    pub bytes: Vec<u8>,
    /// The request for another CA that was not carried out yet.
    pub request: Option<String>,
    secret: Secret,
}

impl Registration {
    /// Reads the Secret; `None` if it does not exist.
    ///
    /// # Errors
    /// If the API server returns an error or does not answer in time.
    pub async fn secret(&self) -> Result<Option<StoredSecret>, RegistrationError> {
        let read = within(self.secrets().get_opt(SECRET)).await;
        let secret = read.map_err(|source| RegistrationError::Read { object: self.secret_name(), source })?;
        Ok(secret.map(|secret| {
            let value = secret.data.as_ref().and_then(|data| data.get(KEY));
            let bytes = value.map(|bytes| bytes.0.clone()).unwrap_or_default();
            StoredSecret { bytes, request: requested(&secret.metadata), secret }
        }))
    }

    /// Creates the Secret, or replaces the version that was read. With a new CA in it, the request
    /// that was read is carried out, and the same write says so.
    ///
    /// # Errors
    /// If the API server returns an error other than a conflict, or does not answer in time.
    pub async fn write_secret(
        &self,
        stored: Option<StoredSecret>,
        bytes: Vec<u8>,
        has_new_ca: bool,
    ) -> Result<Written, RegistrationError> {
        let data = Some(BTreeMap::from([(KEY.to_owned(), ByteString(bytes))]));
        let params = PostParams::default();
        let written = if let Some(StoredSecret { mut secret, request, .. }) = stored {
            if let Some(request) = request.filter(|_| has_new_ca) {
                secret.metadata.annotations.get_or_insert_default().insert(ROTATED.to_owned(), request);
            }
            let secret = Secret { data, string_data: None, ..secret };
            within(self.secrets().replace(SECRET, &params, &secret)).await
        } else {
            let secret = Secret { metadata: self.metadata(SECRET), data, ..Secret::default() };
            within(self.secrets().create(&params, &secret)).await
        };
        outcome(written, || self.secret_name())
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn secret_name(&self) -> String {
        format!("Secret {}/{SECRET}", self.namespace)
    }
}

/// The request for another CA that these annotations have and do not call carried out.
fn requested(metadata: &ObjectMeta) -> Option<String> {
    let annotation = |key: &str| metadata.annotations.as_ref().and_then(|annotations| annotations.get(key));
    annotation(ROTATE).filter(|request| annotation(ROTATED) != Some(request)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_left_until_its_value_was_carried_out() {
        let left = |annotations: &[(&str, &str)]| {
            let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            requested(&ObjectMeta { annotations: Some(annotations.collect()), ..ObjectMeta::default() })
        };
        assert_eq!(requested(&ObjectMeta::default()), None);
        assert_eq!(left(&[(ROTATE, "now")]).as_deref(), Some("now"));
        assert_eq!(left(&[(ROTATE, "now"), (ROTATED, "before")]).as_deref(), Some("now"));
        assert_eq!(left(&[(ROTATE, "now"), (ROTATED, "now")]), None);
        assert_eq!(left(&[(ROTATED, "now")]), None);
    }
}
