//! What the driver kit says: `nt/tests/abi.json`.

use serde_json::Value;

use crate::{
    layout::{Field, Record},
    read,
};

/// The numbers of a driver kit.
#[derive(Debug)]
pub struct Abi(Value);

impl Abi {
    /// Reads them.
    ///
    /// # Panics
    ///
    /// When they are not there or not JSON.
    #[must_use]
    pub fn load() -> Self {
        let text = read("nt/tests/abi.json");
        Self(
            serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("nt/tests/abi.json: {error}")),
        )
    }

    /// `group.name`, if it is there.
    #[must_use]
    pub fn get(&self, group: &str, name: &str) -> Option<&Value> {
        self.0.get(group)?.get(name)
    }

    /// The index of `name` in a table of functions, and how many there are.
    #[must_use]
    pub fn index(&self, table: &str, name: &str) -> Option<u64> {
        self.get("function_tables", table)?.get("index")?.get(name)?.as_u64()
    }

    /// How many entries a table of functions has.
    #[must_use]
    pub fn count(&self, table: &str) -> Option<u64> {
        self.get("function_tables", table)?.get("count")?.as_u64()
    }

    /// The value of a constant, or of a member of any enumeration.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<i64> {
        self.get("constants", name).and_then(Value::as_i64).or_else(|| {
            let mut enums = self.0.get("enums")?.as_object()?.values();
            enums.find_map(|members| members.get(name)).and_then(Value::as_i64)
        })
    }

    /// Whether `dll` exports `name`.
    #[must_use]
    pub fn exports(&self, dll: &str, name: &str) -> bool {
        let Some(names) = self.get("exports", dll).and_then(Value::as_array) else { return false };
        names.iter().any(|export| export == name)
    }

    /// What is wrong with `record`, which we declare as `name`; nothing, one hopes.
    ///
    /// Each of its members is found by name, at the same offset and as long; or lies, under a name
    /// of ours, at an offset where the kit has a member too. Padding under our name may lie anywhere.
    #[must_use]
    pub fn differences(&self, name: &str, record: &Record) -> Vec<String> {
        let Some(kit) = self.get("structs", name) else {
            return vec![format!("{name}: not in nt/tests/abi.json (scripts/wdk/subset.py)")];
        };
        let mut wrong = Vec::new();
        let size = kit["size"].as_u64().map(|size| size as usize);
        if size != Some(record.shape().size) {
            wrong.push(format!("{name}: {} bytes, kit {size:?}", record.shape().size));
        }
        let members = self.members(kit, 0);
        for field in &record.fields {
            let last = field.offset + field.size == record.shape().size;
            let what = compare(field, last, &members);
            wrong.extend(what.map(|what| format!("{name}.{}: {what}", field.name)));
        }
        wrong
    }

    /// The members of a structure of the kit's, and the members of those.
    fn members(&self, kit: &Value, base: usize) -> Vec<Field> {
        let mut members = Vec::new();
        for field in kit["fields"].as_array().into_iter().flatten() {
            let number = |name: &str| field[name].as_u64().unwrap_or_default() as usize;
            let offset = base + number("offset");
            let name = field["name"].as_str().unwrap_or_default().to_owned();
            members.push(Field { name, offset, size: number("size") });
            let inner = field["type"].as_str().and_then(|kind| self.get("structs", kind));
            members.extend(inner.into_iter().flat_map(|inner| self.members(inner, offset)));
        }
        members
    }
}

/// What is wrong with one member; `last` if it ends the record.
fn compare(field: &Field, last: bool, kit: &[Field]) -> Option<String> {
    let bare = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let named: Vec<_> = kit.iter().filter(|kit| bare(&kit.name) == bare(&field.name)).collect();
    if !named.is_empty() {
        // C writes an array of any length, at a record's end, as one of a single element.
        let found = named.iter().any(|kit| {
            kit.offset == field.offset && (kit.size == field.size || last && kit.size < field.size)
        });
        return (!found)
            .then(|| format!("at {}, {} bytes; kit {named:?}", field.offset, field.size));
    }
    let padding = ["Reserved", "OSReserved", "Padding", "Unused", "opaque"];
    let ours = padding.iter().any(|prefix| field.name.starts_with(prefix))
        || kit.iter().any(|kit| kit.offset == field.offset);
    (!ours).then(|| format!("the kit has nothing at {}", field.offset))
}
