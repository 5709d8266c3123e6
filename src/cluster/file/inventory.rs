//! What is in a file: every object once, and the kinds of which the file has an empty list.

use std::collections::BTreeMap;

use serde_json::Value;

use super::SnapshotError;

/// The kind of an object, with its API group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Type {
    /// Empty for the core group. `None` if the object has no `apiVersion`.
    group: Option<String>,
    pub name: String,
}

impl Type {
    /// The kind that a document or an item names itself.
    fn of(object: &Value) -> Option<Self> {
        let text = |field: &str| object.get(field).and_then(Value::as_str);
        let group = |version: &str| version.rsplit_once('/').map_or("", |(group, _)| group).to_owned();
        Some(Self { group: text("apiVersion").map(group), name: text("kind")?.to_owned() })
    }

    /// In a list of a kind, items need no `kind` of their own.
    fn of_items(&self) -> Option<Self> {
        let name = self.name.strip_suffix("List")?;
        (!name.is_empty()).then(|| Self { group: self.group.clone(), name: name.to_owned() })
    }

    /// Whether this is the kind of that group: others have a `Node`, too. Without an `apiVersion`,
    /// the name decides.
    pub fn is(&self, group: &str, name: &str) -> bool {
        self.name == name && self.group.as_deref().is_none_or(|given| given == group)
    }
}

/// The objects of a file.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// By kind, namespace and name. An object without a name has a number instead: a
    /// SubjectAccessReview has no name.
    objects: BTreeMap<(Type, String, Result<String, usize>), Vec<Value>>,
    /// The kinds of which there is an empty list.
    empty: Vec<Type>,
}

impl Inventory {
    /// Adds a document: an object or a list.
    pub fn add(&mut self, document: Value) -> Result<(), SnapshotError> {
        self.add_item(document, None)
    }

    fn add_item(&mut self, mut object: Value, of_list: Option<&Type>) -> Result<(), SnapshotError> {
        if object.is_null() {
            return Ok(());
        }
        let of = Type::of(&object).or_else(|| of_list.cloned()).ok_or(SnapshotError::NoKind)?;
        if !of.name.ends_with("List") {
            self.put(of, object);
            return Ok(());
        }
        let of_items = of.of_items();
        let items = match object.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        if items.is_empty() {
            self.empty.extend(of_items);
            return Ok(());
        }
        items.into_iter().try_for_each(|item| self.add_item(item, of_items.as_ref()))
    }

    /// Adds an object. If the file has it already, the later version counts. Without a version,
    /// objects that differ both count: neither is known to be the older one.
    fn put(&mut self, of: Type, object: Value) {
        let namespace = metadata(&object, "namespace").to_owned();
        let name = Some(metadata(&object, "name")).filter(|name| !name.is_empty()).map(str::to_owned);
        let identity = (of, namespace, name.ok_or(self.objects.len()));
        let versions = |known: &Value| version(known).zip(version(&object));
        let is_later = |known: &Value| versions(known).is_some_and(|(known, this)| known > this);
        let known = self.objects.entry(identity).or_default();
        if !known.iter().any(|known| *known == object || is_later(known)) {
            known.retain(|known| versions(known).is_none());
            known.push(object);
        }
    }

    /// Every object once, and `None` for each kind of which there is an empty list.
    pub fn entries(self) -> impl Iterator<Item = (Type, Option<Value>)> {
        let objects = self.objects.into_iter().flat_map(|((of, ..), objects)| {
            let entry = move |object| (of.clone(), Some(object));
            objects.into_iter().map(entry)
        });
        objects.chain(self.empty.into_iter().map(|of| (of, None)))
    }
}

/// A text in an object's metadata. Empty if it is not there.
pub(super) fn metadata<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// The version of an object in the API server: a later one is higher.
fn version(object: &Value) -> Option<u64> {
    metadata(object, "resourceVersion").parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entries(documents: &[Value]) -> Vec<(String, Option<Value>)> {
        let mut inventory = Inventory::default();
        for document in documents {
            inventory.add(document.clone()).unwrap();
        }
        inventory.entries().map(|(of, object)| (of.name, object)).collect()
    }

    #[test]
    fn an_object_that_is_there_twice_counts_once_in_its_later_version() {
        let node = |version: &str, mark: &str| json!({"kind": "Node", "metadata": {"name": "n1", "resourceVersion": version}, "mark": mark});
        for (first, second, count) in [
            (node("9", "first"), node("10", "second"), vec!["second"]),
            (node("10", "first"), node("9", "second"), vec!["first"]),
            (node("9", "first"), node("9", "second"), vec!["second"]),
            (node("", "same"), node("", "same"), vec!["same"]),
            (node("", "first"), node("", "second"), vec!["first", "second"]),
            (node("9", "first"), node("", "second"), vec!["first", "second"]),
        ] {
            let entries = entries(&[first, json!({"kind": "List", "items": [second]})]);
            let marks: Vec<&str> =
                entries.iter().map(|(_, object)| object.as_ref().unwrap()["mark"].as_str().unwrap()).collect();
            assert_eq!(marks, count);
        }
    }

    #[test]
    fn objects_of_another_kind_namespace_or_name_and_objects_without_a_name_are_others() {
        let object = |kind: &str, namespace: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"namespace": namespace, "name": name}});
        let all = [
            object("Pod", "a", "p"),
            object("Pod", "a", "q"),
            object("Pod", "b", "p"),
            object("Node", "a", "p"),
            json!({"apiVersion": "longhorn.io/v1beta1", "kind": "Node", "metadata": {"namespace": "a", "name": "p"}}),
            json!({"kind": "SubjectAccessReview"}),
            json!({"kind": "SubjectAccessReview"}),
        ];
        assert_eq!(entries(&all).len(), all.len());
    }

    #[test]
    fn an_empty_list_of_a_kind_tells_that_there_is_none() {
        for (list, told) in [
            (json!({"kind": "PodList", "items": []}), vec!["Pod"]),
            (json!({"kind": "PodList", "items": null}), vec!["Pod"]),
            (json!({"kind": "PodList"}), vec!["Pod"]),
            (json!({"kind": "List", "items": []}), vec![]),
            (json!({"kind": "List", "items": [{"kind": "PodList", "items": []}]}), vec!["Pod"]),
        ] {
            let kinds: Vec<String> =
                entries(&[list]).into_iter().filter(|(_, object)| object.is_none()).map(|(kind, _)| kind).collect();
            assert_eq!(kinds, told);
        }
    }

    #[test]
    fn a_kind_is_told_from_its_namesake_in_another_group() {
        let of = |version: Value| Type::of(&json!({"apiVersion": version, "kind": "Node"})).unwrap();
        assert!(of(json!("v1")).is("", "Node"));
        assert!(of(Value::Null).is("", "Node"));
        assert!(!of(json!("longhorn.io/v1beta1")).is("", "Node"));
        assert!(!of(json!("v1")).is("", "Pod"));
    }
}
