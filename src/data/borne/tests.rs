use super::*;

fn parsed(name: &str) -> Option<Result<Slot, Unfit>> {
    Slot::parse(name.as_bytes())
}

#[test]
fn names_lead_to_their_place_and_back() {
    for name in [
        "user.s3.content-type",
        "user.s3.website-redirect-location",
        "user.s3.storage-class",
        "user.s3.encryption",
        "user.s3.encryption-key-id",
        "user.s3.meta.my-key",
        "user.s3.tag.team/a b",
    ] {
        let slot = parsed(name).unwrap().unwrap();
        assert_eq!(slot.xattr(), name.as_bytes());
    }
    for other in ["user.s3", "user.color", "security.capability", "trusted.s3.content-type"] {
        assert_eq!(parsed(other), None, "{other}");
    }
    for bad in ["user.s3.", "user.s3.color", "user.s3.meta.mode", "user.s3.meta.s3volput"] {
        assert_eq!(parsed(bad), Some(Err(Unfit::Syntax)), "{bad}");
    }
}

#[test]
fn what_an_object_bears_comes_back_from_the_rows() {
    let attributes: Attributes = [("mode", "33188"), ("s3volput", "x"), ("color", "blue")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let properties = Properties {
        headers: BTreeMap::from([
            (Header::ContentType, "text/html".to_owned()),
            (Header::CacheControl, "no-cache".to_owned()),
        ]),
        tags: None,
        class: Some("STANDARD_IA".into()),
        encryption: Some(Encryption { algorithm: "aws:kms".into(), key_id: Some("arn:1".into()) }),
        acl: None,
    };
    let mut borne = Borne::of_object(&properties, &attributes);
    let tags = Tags::from([("k".into(), String::new())]);
    borne.set_tags(tags.clone());
    let rows: Vec<Xattr> = borne.rows().into_iter().collect();
    let back = Borne::of_rows(&rows);
    assert_eq!(back, borne);
    assert_eq!(back.metadata(), Attributes::from([("color".to_owned(), "blue".to_owned())]));
    assert_eq!(back.properties(), Properties { tags: Some(tags), ..properties });
}

#[test]
fn values_that_no_store_holds_are_refused() {
    let set =
        |name: &str, value: &[u8]| Borne::default().change(parsed(name).unwrap().unwrap(), value);
    assert_eq!(set("user.s3.content-type", b"image/png"), Ok(()));
    assert_eq!(set("user.s3.content-type", b"image/png\n"), Err(Unfit::Syntax));
    assert_eq!(set("user.s3.content-type", b"\xff"), Err(Unfit::Syntax));
    assert_eq!(set("user.s3.encryption", b"rot13"), Err(Unfit::Syntax));
    assert_eq!(set("user.s3.storage-class", b"GLACIER"), Err(Unfit::Syntax));
    assert_eq!(set("user.s3.meta.a", &[b'x'; 3000]), Err(Unfit::TooLong));
    assert_eq!(set("user.s3.tag.a", &[b'x'; 257]), Err(Unfit::TooLong));
    // Room for our own attributes is left.
    assert_eq!(set("user.s3.meta.a", &[b'x'; 1900]), Err(Unfit::TooMuch));

    let mut full = Borne::default();
    full.set_tags((0..10).map(|n| (n.to_string(), String::new())));
    assert_eq!(full.change(Slot::Tag("one more".into()), b""), Err(Unfit::TooMuch));
    // Of that no other change knows.
    assert_eq!(full.change(Slot::Meta("a".into()), b"b"), Ok(()));
}

#[test]
fn content_types_are_guessed_by_the_name_alone() {
    let guess = |key: &str| guessed(&ContentType::Auto, &ObjectKey::new(key));
    assert_eq!(guess("a/b.html").as_deref(), Some("text/html; charset=utf-8"));
    assert_eq!(guess("style.CSS").as_deref(), Some("text/css; charset=utf-8"));
    assert_eq!(guess("i.svg").as_deref(), Some("image/svg+xml"));
    assert_eq!(guess("i.jpg").as_deref(), Some("image/jpeg"));
    assert_eq!(guess("d.json").as_deref(), Some("application/json"));
    assert_eq!(guess("i.jpg.s3vol-conflict-host-20260101T000000Z").as_deref(), Some("image/jpeg"));
    assert_eq!(guess("a.html/README"), None);
    assert_eq!(guess(".html"), None);
    assert_eq!(guessed(&ContentType::None, &ObjectKey::new("b.html")), None);
    let always = ContentType::Always("a/b".into());
    assert_eq!(guessed(&always, &ObjectKey::new("b.html")).as_deref(), Some("a/b"));
}

#[test]
fn an_encoding_is_believed_by_the_first_bytes() {
    assert!(is_encoded("gzip", &[0x1f, 0x8b, 8, 0]));
    assert!(!is_encoded("gzip", b"<html>"));
    assert!(!is_encoded("gzip", b""));
    assert!(is_encoded("br, GZIP", &[0x1f, 0x8b]));
    assert!(is_encoded("deflate", &[0x78, 0x9c, 1]) && !is_encoded("deflate", b"xx"));
    assert!(is_encoded("zstd", &[0x28, 0xb5, 0x2f, 0xfd]) && !is_encoded("zstd", b"(..."));
    assert!(is_encoded("br", &[0x0b, 0x02, 0x80, 0xff]));
    assert!(!is_encoded("br", "plain täxt\n".as_bytes()));
    // Cut inside of the last character.
    assert!(!is_encoded("br", &"plain ä".as_bytes()[..7]));
    assert!(!is_encoded("br", b""));
}
