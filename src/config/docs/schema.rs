//! `config/stent.schema.json`: a JSON Schema of the configuration, draft 7.

use serde_json::{Map, Value, json};

use crate::config::docs::{Form, KeyDoc, Place, Presence};

/// Writes the schema.
pub(super) fn write(keys: &[KeyDoc]) -> String {
    let mut schema = table(keys);
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("The configuration of Stent");
    schema["description"] =
        json!("Written from the declarations in src/config by `UPDATE=1 cargo test --lib config::docs`.");
    format!("{schema:#}\n")
}

fn table(keys: &[KeyDoc]) -> Value {
    let properties: Map<_, _> = keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let is_required = |key: &&KeyDoc| matches!(key.form, Form::Value(_, Presence::Required(_)));
    let required: Vec<_> = keys.iter().filter(is_required).map(|key| key.name).collect();
    let mut table = json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    table
}

fn property(key: &KeyDoc) -> Value {
    let mut property = match &key.form {
        Form::Value(shape, presence) => {
            let mut schema = shape.schema.clone();
            if let Presence::Default(default) = presence {
                schema["default"] = json_of(default);
            }
            schema
        }
        Form::Table(style, keys) => match style.place {
            Place::Always | Place::Optional => table(keys),
            Place::List => json!({ "type": "array", "items": table(keys) }),
            Place::Named(_) => json!({ "type": "object", "additionalProperties": table(keys) }),
        },
        Form::Renamed(_, _) => Value::Null,
    };
    property["description"] = json!(key.text);
    property
}

/// A value of TOML as JSON has it.
fn json_of(toml: &str) -> Value {
    let table: toml::Table = format!("value = {toml}").parse().expect("a default is shown as TOML");
    serde_json::to_value(&table["value"]).expect("a value of TOML is one of JSON, but for dates")
}
