//! Requests from their raw bodies. dockerd sends no Content-Type, and after a lost connection it
//! repeats a request without its body.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::types::VolumeName;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateRequest {
    pub name: String,
    #[serde(default)]
    pub opts: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct MountRequest {
    pub name: String,
    #[serde(rename = "ID", default)]
    pub id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NameRequest {
    pub name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TakeOverRequest {
    pub name: String,
    /// The epoch of the holder, as an answer without it told; `None` only asks.
    #[serde(default)]
    pub epoch: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UpgradeRequest {
    /// As the plugin sees it.
    pub file: std::path::PathBuf,
}

/// The request in `body`, or what to answer.
pub(super) fn request<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(
            "the request has no body (Docker repeats a request without it when the plugin \
                    was restarted meanwhile); try again"
                .to_owned(),
        );
    }
    serde_json::from_slice(body).map_err(|e| format!("the request is not understood: {e}"))
}

/// A checked volume name, or what to answer.
pub(super) fn volume(name: String) -> Result<VolumeName, String> {
    VolumeName::new(name).map_err(|e| e.to_string())
}
