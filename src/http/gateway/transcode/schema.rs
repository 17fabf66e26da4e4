//! What the descriptors say of the messages that travel through the gateway, in the form in which both directions need it.
//! Made once, at the first request.

use std::{collections::HashMap, sync::LazyLock};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

use crate::http::gateway::paths;

/// Everything reachable from the methods of `paths`.
pub struct Schema {
    messages: Vec<Message>,
    enums: Vec<Enumeration>,
    methods: HashMap<String, Method>,
}

/// A method of gRPC: what goes in, what comes out, and whether several of each do.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    input: usize,
    output: usize,
    pub takes_many: bool,
    pub gives_many: bool,
}

impl Method {
    pub fn input(self) -> &'static Message {
        message_of(self.input)
    }

    pub fn output(self) -> &'static Message {
        message_of(self.output)
    }
}

#[derive(Debug)]
pub struct Message {
    pub name: String,
    /// As they are declared: that is the order of JSON.
    pub fields: Vec<Field>,
    by_name: HashMap<String, usize>,
}

#[derive(Debug)]
pub struct Field {
    pub name: String,
    /// The name in lowerCamelCase.
    pub json_name: String,
    pub number: u32,
    pub repeated: bool,
    /// The full name of the oneof that it is of: it is there or not, zero or not.
    pub oneof: Option<String>,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int64,
    Uint32,
    Uint64,
    Text,
    Bytes,
    /// By their places in the schema.
    Enum(usize),
    Message(usize),
}

impl Kind {
    /// As protojson names it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Int64 => "int64",
            Kind::Uint32 => "uint32",
            Kind::Uint64 => "uint64",
            Kind::Text => "string",
            Kind::Bytes => "bytes",
            Kind::Enum(_) => "enum",
            Kind::Message(_) => "message",
        }
    }
}

pub struct Enumeration {
    pub by_name: HashMap<String, i32>,
    pub by_number: HashMap<i32, String>,
}

impl Message {
    /// A field by either of its names, as it was declared or in lowerCamelCase.
    pub fn field(&self, name: &str) -> Option<(usize, &Field)> {
        let at = *self.by_name.get(name)?;
        Some((at, &self.fields[at]))
    }

    pub fn field_numbered(&self, number: u32) -> Option<(usize, &Field)> {
        self.fields.iter().enumerate().find(|(_, field)| field.number == number)
    }
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let descriptors = FileDescriptorSet::decode(crate::DESCRIPTORS).expect("the descriptors were compiled with this");
    Schema::of(&descriptors)
});

/// A message by its place.
pub fn message_of(at: usize) -> &'static Message {
    &SCHEMA.messages[at]
}

pub fn enum_of(at: usize) -> &'static Enumeration {
    &SCHEMA.enums[at]
}

impl Schema {
    /// A method by its path, `/package.Service/Method`, if the gateway has it.
    pub fn method(path: &str) -> Option<Method> {
        SCHEMA.methods.get(path).copied()
    }

    /// A message by its full name.
    pub fn message(name: &str) -> Option<&'static Message> {
        SCHEMA.messages.iter().find(|message| message.name == name)
    }

    fn of(descriptors: &FileDescriptorSet) -> Schema {
        let mut builder = Builder::new(descriptors);
        let mut methods = HashMap::new();
        for file in &descriptors.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    if !paths::has(&path) {
                        continue;
                    }
                    let method = Method {
                        input: builder.message(method.input_type()),
                        output: builder.message(method.output_type()),
                        takes_many: method.client_streaming(),
                        gives_many: method.server_streaming(),
                    };
                    methods.insert(path, method);
                }
            }
        }
        let messages = builder.messages.into_iter().map(|message| message.expect("every place was filled")).collect();
        Schema { messages, enums: builder.enums, methods }
    }
}

/// Takes over what it is asked for, and what that is made of. Names are full and begin with a dot, as descriptors refer.
struct Builder<'a> {
    declared_messages: HashMap<String, &'a DescriptorProto>,
    declared_enums: HashMap<String, &'a EnumDescriptorProto>,
    message_places: HashMap<String, usize>,
    enum_places: HashMap<String, usize>,
    /// None while one is being taken over: it may contain itself.
    messages: Vec<Option<Message>>,
    enums: Vec<Enumeration>,
}

impl<'a> Builder<'a> {
    fn new(descriptors: &'a FileDescriptorSet) -> Self {
        let mut builder = Builder {
            declared_messages: HashMap::new(),
            declared_enums: HashMap::new(),
            message_places: HashMap::new(),
            enum_places: HashMap::new(),
            messages: Vec::new(),
            enums: Vec::new(),
        };
        for file in &descriptors.file {
            let scope = format!(".{}", file.package());
            file.message_type.iter().for_each(|message| builder.declare(&scope, message));
            for of in &file.enum_type {
                builder.declared_enums.insert(format!("{scope}.{}", of.name()), of);
            }
        }
        builder
    }

    fn declare(&mut self, scope: &str, message: &'a DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        message.nested_type.iter().for_each(|nested| self.declare(&name, nested));
        for of in &message.enum_type {
            self.declared_enums.insert(format!("{name}.{}", of.name()), of);
        }
        self.declared_messages.insert(name, message);
    }

    fn message(&mut self, name: &str) -> usize {
        if let Some(place) = self.message_places.get(name) {
            return *place;
        }
        let place = self.messages.len();
        self.messages.push(None);
        self.message_places.insert(name.to_owned(), place);
        let declared = *self.declared_messages.get(name).unwrap_or_else(|| panic!("{name} is not in proto/"));
        let fields: Vec<Field> = declared.field.iter().map(|field| self.field(name, declared, field)).collect();
        // Messages are written in order of number, and JSON in order of declaration: nothing has to be put by in between.
        assert!(fields.is_sorted_by_key(|field| field.number), "{name}: its fields are not declared in order");
        assert!(fields.len() <= 64, "{name}: which of its fields have been seen is kept in 64 bits");
        let mut by_name = HashMap::new();
        for (at, field) in fields.iter().enumerate() {
            by_name.insert(field.name.clone(), at);
        }
        // A name in lowerCamelCase goes first (protojson: unmarshalMessage).
        for (at, field) in fields.iter().enumerate() {
            by_name.insert(field.json_name.clone(), at);
        }
        self.messages[place] = Some(Message { name: name[1..].to_owned(), fields, by_name });
        place
    }

    fn field(&mut self, message: &str, declared: &DescriptorProto, field: &FieldDescriptorProto) -> Field {
        let oneof =
            field.oneof_index.map(|at| format!("{}.{}", &message[1..], declared.oneof_decl[at as usize].name()));
        let kind = match field.r#type() {
            Type::Bool => Kind::Bool,
            Type::Int64 => Kind::Int64,
            Type::Uint32 => Kind::Uint32,
            Type::Uint64 => Kind::Uint64,
            Type::String => Kind::Text,
            Type::Bytes => Kind::Bytes,
            Type::Enum => Kind::Enum(self.enumeration(field.type_name())),
            Type::Message => Kind::Message(self.message(field.type_name())),
            // Nor maps, which are messages of their own kind and have none of their entries' names in proto/.
            other => panic!("{message}.{}: no message of the gateway's has fields of the type {other:?}", field.name()),
        };
        Field {
            name: field.name().to_owned(),
            json_name: camel(field.name()),
            number: u32::try_from(field.number()).expect("field numbers are positive"),
            repeated: field.label() == Label::Repeated,
            oneof,
            kind,
        }
    }

    fn enumeration(&mut self, name: &str) -> usize {
        if let Some(place) = self.enum_places.get(name) {
            return *place;
        }
        let declared = self.declared_enums.get(name).unwrap_or_else(|| panic!("{name} is not in proto/"));
        let mut of = Enumeration { by_name: HashMap::new(), by_number: HashMap::new() };
        for value in &declared.value {
            of.by_name.insert(value.name().to_owned(), value.number());
            of.by_number.entry(value.number()).or_insert_with(|| value.name().to_owned());
        }
        self.enums.push(of);
        self.enum_places.insert(name.to_owned(), self.enums.len() - 1);
        self.enums.len() - 1
    }
}

/// A name without its underscores, the letter after each a capital (protoc: ToJsonName).
fn camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut capital = false;
    for letter in name.chars() {
        match letter {
            '_' => capital = true,
            letter if std::mem::take(&mut capital) => out.push(letter.to_ascii_uppercase()),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_camelled_as_protoc_does() {
        for (name, wanted) in
            [("prev_kv", "prevKv"), ("peerURLs", "peerURLs"), ("ID", "ID"), ("remaining_TTL", "remainingTTL")]
        {
            assert_eq!(camel(name), wanted);
        }
    }

    #[test]
    fn every_method_of_the_table_has_its_messages() {
        for path in paths::ALL {
            let method = Schema::method(&path.rpc()).unwrap_or_else(|| panic!("{} is not in proto/", path.rpc()));
            assert!(!method.input().name.is_empty() && !method.output().fields.is_empty());
        }
        let range = Schema::method("/etcdserverpb.KV/Range").unwrap();
        assert_eq!(range.input().name, "etcdserverpb.RangeRequest");
        assert_eq!(range.input().field("rangeEnd").unwrap().0, range.input().field("range_end").unwrap().0);
        assert!(range.input().field("RANGE_END").is_none());
        assert!(Schema::method("/etcdserverpb.KV/RangeStream").is_none());
        let op = Schema::message("etcdserverpb.RequestOp").unwrap();
        assert_eq!(op.fields[0].oneof.as_deref(), Some("etcdserverpb.RequestOp.request"));
    }
}
