//! `#[derive(FromJson)]`: how a type of bluegreen reads itself out of JSON.
//!
//! It reads the attributes `#[serde(...)]`, which stand there for `Serialize` and for the JSON Schema anyway, and means by
//! them what serde means: `default`, `default = "…"`, `deny_unknown_fields`, `deserialize_with`, `flatten`, `from`, `rename`,
//! `rename_all`, `skip`, `transparent`, `try_from`. A function of `deserialize_with` takes a `&Json`. What only concerns
//! writing is passed over; any other attribute is an error of the compiler.

mod attributes;
mod case;

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::{Data, DataEnum, DeriveInput, Error, Fields, FieldsNamed, FieldsUnnamed, Ident, Result, Type, parse_quote};

use self::attributes::{Absent, Container, OfField};

/// Writes an `impl FromJson`.
#[proc_macro_derive(FromJson, attributes(serde))]
pub fn from_json(item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = syn::parse_macro_input!(item as DeriveInput);
    derive(input).unwrap_or_else(|error| error.into_compile_error()).into()
}

fn derive(mut input: DeriveInput) -> Result<TokenStream> {
    let container = Container::of(&input.attrs)?;
    let parameters: Vec<Ident> = input.generics.type_params().map(|parameter| parameter.ident.clone()).collect();
    let body = match &input.data {
        _ if container.by_way_of.is_some() => {
            let raw = &container.by_way_of;
            quote!(crate::json::converted::<#raw, Self>(json))
        }
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) if container.is_transparent => transparent(fields)?,
            Fields::Named(fields) => object(&quote!(Self), fields, &container, &parameters)?,
            Fields::Unnamed(fields) => list(fields)?,
            Fields::Unit => return Err(Error::new_spanned(&input.ident, "there is nothing to read")),
        },
        Data::Enum(data) => choice(data, &container)?,
        Data::Union(_) => return Err(Error::new_spanned(&input.ident, "a union cannot be read")),
    };
    let name_of_an_entry = newtype_name(&input, &container);
    for parameter in input.generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(crate::json::FromJson));
    }
    let ident = &input.ident;
    let (generics, arguments, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #generics crate::json::FromJson for #ident #arguments #bounds {
            fn from_json(json: &crate::json::Json<'_>) -> ::core::result::Result<Self, crate::json::FieldError> {
                #body
            }
            #name_of_an_entry
        }
    })
}

/// A struct that is written as its one field.
fn transparent(fields: &FieldsNamed) -> Result<TokenStream> {
    let mut given = fields.named.iter();
    match (given.next(), given.next()) {
        (Some(field), None) => {
            let name = &field.ident;
            Ok(quote!(crate::json::FromJson::from_json(json).map(|value| Self { #name: value })))
        }
        _ => Err(Error::new_spanned(fields, "`transparent` is for one field")),
    }
}

/// A struct without names: its one field, or a list.
fn list(fields: &FieldsUnnamed) -> Result<TokenStream> {
    attributes::none(fields)?;
    if fields.unnamed.len() == 1 {
        return Ok(quote!(crate::json::FromJson::from_json(json).map(Self)));
    }
    let names: Vec<_> = (0..fields.unnamed.len()).map(|place| format_ident!("field_{place}")).collect();
    Ok(quote!(crate::json::FromJson::from_json(json).map(|(#(#names),*)| Self(#(#names),*))))
}

/// A number around which there is a type is a name of an entry as the number is.
fn newtype_name(input: &DeriveInput, container: &Container) -> Option<TokenStream> {
    let Data::Struct(data) = &input.data else { return None };
    let is_newtype = matches!(&data.fields, Fields::Unnamed(fields) if fields.unnamed.len() == 1);
    (is_newtype && container.by_way_of.is_none()).then(|| {
        quote! {
            fn from_name(name: &str) -> ::core::result::Result<Self, crate::json::FieldError> {
                crate::json::FromJson::from_name(name).map(Self)
            }
        }
    })
}

/// An object with these fields, of which `made` is made.
fn object(
    made: &TokenStream,
    fields: &FieldsNamed,
    container: &Container,
    parameters: &[Ident],
) -> Result<TokenStream> {
    let (mut names, mut reads, mut members) = (Vec::new(), Vec::new(), Vec::new());
    let (mut required, mut indexes) = (Vec::new(), Vec::new());
    for field in &fields.named {
        let Some(ident) = &field.ident else { continue };
        let (kind, read) = (&field.ty, format_ident!("field_{}", ident.unraw()));
        let OfField { rename, absent, with, is_skipped, is_flat } = OfField::of(&field.attrs)?;
        if is_skipped {
            if !container.has_default {
                members.push(quote!(#ident: ::core::default::Default::default()));
            }
            continue;
        }
        members.push(quote!(#ident: #read));
        if is_flat {
            if container.has_default || container.is_strict {
                return Err(Error::new_spanned(
                    ident,
                    "`flatten` goes with neither `default` nor `deny_unknown_fields`",
                ));
            }
            required.push(read.clone());
            reads.push(quote!(let #read = fields.beside::<#kind>(json);));
            continue;
        }
        let index = names.len();
        names.push(rename.unwrap_or_else(|| container.case.field(&ident.unraw().to_string())));
        let find = match &with {
            Some(with) => quote!(fields.find_by(#index, #with)),
            None => quote!(fields.find(#index)),
        };
        let is_optional = is_option(kind) && with.is_none();
        reads.push(match absent {
            _ if container.has_default => quote!(if let Some(#read) = #find { made.#ident = #read; }),
            None | Some(Absent::Default) if is_optional => quote!(let #read: #kind = fields.optional(#index);),
            Some(Absent::Default) => quote!(let #read: #kind = #find.unwrap_or_default();),
            Some(Absent::By(path)) => quote!(let #read: #kind = #find.unwrap_or_else(#path);),
            None => {
                required.push(read.clone());
                indexes.push(index);
                let missing = parameters.iter().any(|parameter| is_parameter(kind, parameter));
                let missing = missing.then(|| quote!(.or_else(crate::json::FromJson::missing)));
                quote!(let #read: ::core::option::Option<#kind> = #find #missing;)
            }
        });
    }
    let (count, is_strict) = (names.len(), container.is_strict);
    let begin = quote! {
        static SHAPE: crate::json::Shape = crate::json::Shape { names: &[#(#names),*], strict: #is_strict };
        let mut places = [0_u32; #count];
        let mut fields = SHAPE.fields(json, &mut places);
    };
    Ok(if container.has_default {
        quote! {
            #begin
            let mut made = <Self as ::core::default::Default>::default();
            #(#reads)*
            if fields.fit() { Ok(made) } else { Err(fields.misfit(&[])) }
        }
    } else {
        quote! {
            #begin
            #(#reads)*
            match (#(#required,)* fields.fit()) {
                (#(Some(#required),)* true) => Ok(#made { #(#members),* }),
                _ => Err(fields.misfit(&[#(#indexes),*])),
            }
        }
    })
}

/// One of several: a name alone, or an object with the name and what goes with it.
fn choice(data: &DataEnum, container: &Container) -> Result<TokenStream> {
    let (mut names, mut arms) = (Vec::new(), Vec::new());
    let is_plain = data.variants.iter().all(|variant| matches!(variant.fields, Fields::Unit));
    for (index, variant) in data.variants.iter().enumerate() {
        let ident = &variant.ident;
        let of_variant = OfField::of(&variant.attrs)?;
        if of_variant.absent.is_some() || of_variant.with.is_some() || of_variant.is_skipped || of_variant.is_flat {
            return Err(Error::new_spanned(ident, "a variant takes `rename` only"));
        }
        names.push(of_variant.rename.unwrap_or_else(|| container.case.variant(&ident.to_string())));
        if let Fields::Unnamed(fields) = &variant.fields {
            attributes::none(fields)?;
        }
        let read = match &variant.fields {
            Fields::Unit if is_plain => quote!(Self::#ident),
            Fields::Unit => quote!(variant.alone().map(|()| Self::#ident)),
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => quote!(variant.holding().map(Self::#ident)),
            Fields::Unnamed(fields) => {
                let names: Vec<_> = (0..fields.unnamed.len()).map(|place| format_ident!("field_{place}")).collect();
                quote!(variant.holding().map(|(#(#names),*)| Self::#ident(#(#names),*)))
            }
            Fields::Named(fields) => {
                let of_fields = Container { is_strict: container.is_strict, ..Container::default() };
                let object = object(&quote!(Self::#ident), fields, &of_fields, &[])?;
                quote! {{
                    let json = variant.fields()?;
                    let read = || -> ::core::result::Result<Self, crate::json::FieldError> { #object };
                    read().map_err(|misfit| variant.within(misfit))
                }}
            }
        };
        let is_last = index.saturating_add(1) == data.variants.len();
        arms.push(if is_last { quote!(_ => #read) } else { quote!(#index => #read) });
    }
    Ok(if is_plain {
        quote!(Ok(match crate::json::chosen(json, &[#(#names),*])? { #(#arms),* }))
    } else {
        quote! {
            let variant = crate::json::Variant::of(json, &[#(#names),*])?;
            match variant.index { #(#arms),* }
        }
    })
}

/// Whether a field of this type may be left out, as far as its name tells.
fn is_option(kind: &Type) -> bool {
    matches!(kind, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Option"))
}

/// Whether a field is of the type that a parameter of its own type is, which may be one that may be left out.
fn is_parameter(kind: &Type, parameter: &Ident) -> bool {
    matches!(kind, Type::Path(path) if path.path.is_ident(parameter))
}
