//! Parsing of Kubernetes' JSON: `null`, a missing field and the zero value mean the same, and a
//! struct is parsed from an object only.
//!
//! serde would also parse a struct from an array, field by field in the order of declaration. No
//! API server sends that.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

/// Parses `null` as the type's default.
pub fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Parses an object, or `null` as the type's default.
pub fn object_or_null<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|Object(value)| value).unwrap_or_default())
}

/// Parses a time. A value that is not a time counts as missing: it must not make the whole list
/// that it is in unreadable. So does a time before the year 0, which RFC 3339 cannot write: the
/// gate may have to record it.
pub fn readable_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    /// 0000-01-01T00:00:00Z.
    const YEAR_0: Timestamp = Timestamp::constant(-62_167_219_200, 0);
    let time: Option<Timestamp> = Option::<String>::deserialize(deserializer)?.and_then(|time| time.parse().ok());
    Ok(time.filter(|time| *time >= YEAR_0))
}

/// Parses an object that the API server may not have validated. An object of another shape counts
/// as empty: it must not make the whole list that it is in unreadable.
pub fn object_or_nothing<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    let value = serde_json::Value::deserialize(deserializer)?;
    let object: Option<Object<T>> = serde_json::from_value(value).ok();
    Ok(object.map(|Object(value)| value).unwrap_or_default())
}

/// Parses a list of objects, or `null` as an empty list.
pub fn objects_or_null<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    kept_objects(deserializer, usize::MAX, Some)
}

/// Parses a list of objects, or `null` as an empty list: only what `keep` makes of them, and
/// nothing else is ever held in memory. More than `most` of these are an error.
pub fn kept_objects<'de, D, T, K>(
    deserializer: D,
    most: usize,
    keep: impl Fn(T) -> Option<K>,
) -> Result<Vec<K>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(kept_objects_if_any(deserializer, most, keep)?.unwrap_or_default())
}

/// The same, but `null` is `None`.
pub fn kept_objects_if_any<'de, D, T, K>(
    deserializer: D,
    most: usize,
    keep: impl Fn(T) -> Option<K>,
) -> Result<Option<Vec<K>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    kept_items(deserializer, "a list of objects", most, |Object(object), _| keep(object))
}

/// Parses a list of objects, or `null` as an empty list: only the first `most` of what `keep`
/// makes of them. All others are skipped.
pub fn first_objects<'de, D, T, K>(
    deserializer: D,
    most: usize,
    keep: impl Fn(T) -> Option<K>,
) -> Result<Vec<K>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let first = |Object(object), kept| if kept < most { keep(object) } else { None };
    Ok(kept_items(deserializer, "a list of objects", most, first)?.unwrap_or_default())
}

/// Parses a list of texts, or `null` as an empty list: only the first `most`. All others are
/// skipped.
pub fn first_texts<'de, D: Deserializer<'de>>(deserializer: D, most: usize) -> Result<Vec<String>, D::Error> {
    let is_first = |text: String, kept| (kept < most).then_some(text);
    Ok(kept_items(deserializer, "a list of texts", most, is_first)?.unwrap_or_default())
}

/// Parses a list, or `null` as `None`: only what `keep` makes of the items and of how many were
/// kept before.
fn kept_items<'de, D, T, K, F>(
    deserializer: D,
    what: &'static str,
    most: usize,
    keep: F,
) -> Result<Option<Vec<K>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
    F: Fn(T, usize) -> Option<K>,
{
    struct Items<T, F> {
        what: &'static str,
        most: usize,
        keep: F,
        item: PhantomData<T>,
    }

    impl<'de, T: Deserialize<'de>, K, F: Fn(T, usize) -> Option<K>> Visitor<'de> for Items<T, F> {
        type Value = Option<Vec<K>>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.what)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let Self { most, keep, .. } = self;
            let mut kept = Vec::new();
            while let Some(item) = list.next_element()? {
                kept.extend(keep(item, kept.len()));
                if kept.len() > most {
                    return Err(A::Error::custom(format_args!("the list has more than {most} entries that count")));
                }
            }
            Ok(Some(kept))
        }
    }

    deserializer.deserialize_any(Items { what, most, keep, item: PhantomData })
}

/// Parses a map of texts: only the entries with a key that `keep` accepts. All others are skipped
/// without parsing their values. `null` is `None`. A duplicate key is an error: another reader
/// might use the other value. So are more than `most` bytes of keys and values that are kept.
pub fn kept_entries<'de, D: Deserializer<'de>>(
    deserializer: D,
    most: usize,
    keep: fn(&str) -> bool,
) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    struct Entries {
        most: usize,
        keep: fn(&str) -> bool,
    }

    impl<'de> Visitor<'de> for Entries {
        type Value = Option<BTreeMap<String, String>>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a map of texts")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let Self { most, keep } = self;
            let (mut kept, mut bytes) = (BTreeMap::new(), 0);
            while let Some(key) = map.next_key::<String>()? {
                if !keep(&key) {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                let value = map.next_value::<Option<String>>()?.unwrap_or_default();
                bytes += key.len() + value.len();
                if bytes > most {
                    return Err(A::Error::custom(format_args!("the entries that count have more than {most} bytes")));
                }
                if kept.insert(key.clone(), value).is_some() {
                    return Err(A::Error::custom(format_args!("{key:?} is there twice")));
                }
            }
            Ok(Some(kept))
        }
    }

    deserializer.deserialize_any(Entries { most, keep })
}

/// A struct that is parsed from a JSON object, and never from an array.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = T;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::object::node::Node;

    #[test]
    fn only_an_object_is_parsed_as_an_object() {
        for text in [
            "[]",
            r#"[{"name":"n"}]"#,
            "7",
            r#""n""#,
            "null",
            r#"{"metadata":["n"]}"#,
            r#"{"spec":[]}"#,
            r#"{"spec":{"taints":[["node.kubernetes.io/out-of-service"]]}}"#,
            r#"{"status":{"conditions":["Ready"]}}"#,
        ] {
            assert!(serde_json::from_str::<Object<Node>>(text).is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Object<Node>>(r#"{"metadata":null,"spec":{"taints":null}}"#).is_ok());
    }

    #[test]
    fn an_error_says_what_was_expected() {
        let error = |text| serde_json::from_str::<Object<Node>>(text).err().map(|error| error.to_string());
        assert!(error("[]").is_some_and(|why| why.contains("expected an object")), "{:?}", error("[]"));
        let annotations = error(r#"{"metadata":{"annotations":5}}"#);
        assert!(annotations.as_ref().is_some_and(|why| why.contains("expected a map of texts")), "{annotations:?}");
        let taints = error(r#"{"spec":{"taints":5}}"#);
        assert!(taints.as_ref().is_some_and(|why| why.contains("expected a list of objects")), "{taints:?}");
        let finalizers = error(r#"{"metadata":{"finalizers":5}}"#);
        assert!(finalizers.as_ref().is_some_and(|why| why.contains("expected a list of texts")), "{finalizers:?}");
    }

    #[test]
    fn as_much_as_is_allowed_is_kept_and_more_is_an_error() {
        let node = |ready: usize, proof: usize| {
            let conditions = vec![serde_json::json!({"type": "Ready"}); ready];
            let annotations = serde_json::json!({crate::policy::annotation::PROOF: "x".repeat(proof)});
            let node =
                serde_json::json!({"metadata": {"annotations": annotations}, "status": {"conditions": conditions}});
            serde_json::from_value::<Node>(node).is_ok()
        };
        let longest = 256 * 1024 - crate::policy::annotation::PROOF.len();
        assert!(node(1000, longest) && !node(1001, longest) && !node(1000, longest + 1));
    }

    #[test]
    fn a_time_that_rfc_3339_cannot_write_counts_as_missing() {
        let time = |text: &str| readable_time(&serde_json::Value::from(text)).unwrap().map(|time| time.to_string());
        assert_eq!(time("0000-01-01T00:00:00Z").as_deref(), Some("0000-01-01T00:00:00Z"));
        assert_eq!(time("0000-01-01T00:00:00+00:01"), None);
        assert_eq!(time("yesterday"), None);
    }
}
