//! What new objects get: storage class, encryption, access list, and who pays.
//!
//! Each kind of store has its own; what one does not have is refused with what to do instead.

use super::address::Scheme;
use super::errors::ConfigErrors;
use super::volume::VolumeOptions;

const ACLS: [&str; 7] = [
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
];
const ALGORITHMS: [&str; 3] = ["AES256", "aws:kms", "aws:kms:dsse"];
const AZURE_TIERS: [&str; 3] = ["Hot", "Cool", "Cold"];
const GOOGLE_CLASSES: [&str; 4] = ["STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"];

/// `none`, or one of a list.
pub(super) fn parse_acl(text: &str) -> Result<Option<String>, String> {
    one_of(text, &ACLS)
}

/// `none`, or an algorithm.
pub(super) fn parse_sse(text: &str) -> Result<Option<String>, String> {
    one_of(text, &ALGORITHMS)
}

/// `none`, or what a header can hold.
pub(super) fn parse_key_id(text: &str) -> Result<Option<String>, String> {
    let visible = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    match text {
        "none" => Ok(None),
        _ if visible => Ok(Some(text.to_owned())),
        _ => Err(format!("{text:?} is not the name of a key; write its id, ARN or alias")),
    }
}

/// `none`, or a class that can be read at once.
pub(super) fn parse_class(text: &str) -> Result<Option<String>, String> {
    if text == "none" {
        return Ok(None);
    }
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if text.is_empty() || text.len() > 64 || !text.bytes().all(word) {
        return Err(format!("{text:?} is not a storage class; write for example STANDARD_IA"));
    }
    match text.to_ascii_uppercase().as_str() {
        "GLACIER" | "DEEP_ARCHIVE" => Err(format!(
            "objects of the class {text} cannot be read until somebody restores them; GLACIER_IR \
             can be read at once"
        )),
        _ => Ok(Some(text.to_owned())),
    }
}

fn one_of(text: &str, all: &[&str]) -> Result<Option<String>, String> {
    if text == "none" {
        return Ok(None);
    }
    match all.iter().find(|one| one.eq_ignore_ascii_case(text)) {
        Some(one) => Ok(Some((*one).to_owned())),
        None => Err(format!("{text:?} is none of: none, {}", all.join(", "))),
    }
}

/// Checks these options against each other and against the kind of store, and writes a class as the
/// store does.
pub(super) fn check(options: &mut VolumeOptions, scheme: Scheme, errors: &mut ConfigErrors) {
    let kms = options.sse.as_deref().is_some_and(|sse| sse.starts_with("aws:kms"));
    if options.sse_kms_key_id.is_some() && !kms {
        errors.push("sse_kms_key_id", "a key needs sse=aws:kms beside it");
    }
    if scheme == Scheme::File && options.credentials.is_some() {
        errors.push("credentials", "a folder needs none; leave it out, or give credentials=none");
    }
    let place = match scheme {
        Scheme::S3 => return check_s3(options),
        Scheme::Azure => "az://",
        Scheme::Google => "gs://",
        Scheme::File => "file://",
    };
    let mut refuse = |name: &str, cure: &str| {
        errors.push(name, format!("is for s3:// and not for {place}: {cure}; or give {name}=none"));
    };
    if options.sse.is_some() {
        refuse(
            "sse",
            match scheme {
                Scheme::Azure => {
                    "Azure encrypts everything; give the storage account a key of yours"
                }
                Scheme::Google => {
                    "Google encrypts everything; give the bucket a default key of yours"
                }
                _ => "encrypt the disk",
            },
        );
    }
    if options.acl.is_some() {
        refuse(
            "acl",
            match scheme {
                Scheme::Azure => "set the container's public access level",
                Scheme::Google => "give rights by IAM on the bucket",
                _ => "use the permissions of the folder",
            },
        );
    }
    if options.requester_pays {
        errors.push(
            "requester_pays",
            format!("is for s3:// and not for {place}: there the owner pays; leave it out"),
        );
    }
    let Some(class) = &options.storage_class else { return };
    let all: &[&str] = match scheme {
        Scheme::Azure => &AZURE_TIERS,
        Scheme::Google => &GOOGLE_CLASSES,
        _ => &[],
    };
    match all.iter().find(|one| one.eq_ignore_ascii_case(class)) {
        Some(one) => options.storage_class = Some((*one).to_owned()),
        None if all.is_empty() => {
            errors
                .push("storage_class", "a folder has no storage classes; give storage_class=none");
        }
        None => errors.push(
            "storage_class",
            format!("{class:?} is none of {place}: none, {}", all.join(", ")),
        ),
    }
}

fn check_s3(options: &mut VolumeOptions) {
    if let Some(class) = &mut options.storage_class {
        class.make_ascii_uppercase();
    }
}
