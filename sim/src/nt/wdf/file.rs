//! `WDFFILEOBJECT`: one for each handle a program has opened.
//!
//! Source: `facts/kmdf.md` §10 (`irphandlers/general/fxpkggeneral.cpp`, read in Microsoft's source).

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::Entered;
use super::attributes::ContextType;
use super::device::Device;
use super::driver_memory::Address;
use super::object::{Kind, Object};
use crate::nt::imports;
use crate::nt::machine::Machine;

/// `WDF_FILEOBJECT_CONFIG`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileConfig {
    /// `EvtDeviceFileCreate`, or 0.
    pub(crate) create: u64,
    /// `EvtFileClose`, or 0.
    pub(crate) close: u64,
    /// `EvtFileCleanup`, or 0.
    pub(crate) cleanup: u64,
    /// The context of each file object.
    pub(crate) context: ContextType,
}

/// The simulator's part of a `WDFFILEOBJECT`.
pub(crate) struct File {
    pub(crate) object: Arc<Object>,
    pub(crate) device: Arc<Device>,
    /// The `FILE_OBJECT`.
    pub(crate) wdm: u64,
    /// IOCTLs that are not completed; CLOSE comes after them.
    pub(crate) outstanding: AtomicU32,
}

const FILE_OBJECT_SIZE: usize = 216;
const FILE_OBJECT_DEVICE: u64 = 8;

impl File {
    /// Makes a file object with the context its device asks for.
    pub(crate) fn new(machine: &Machine, device: &Arc<Device>, context: ContextType) -> Arc<Self> {
        let wdf = super::Wdf::of(machine);
        let object = wdf.objects.create(machine, Kind::FileObject, context, Some(device.object()));
        let wdm = machine.allocate(FILE_OBJECT_SIZE) as u64;
        Address(wdm).write(0, 5_u32 | (FILE_OBJECT_SIZE as u32) << 16);
        Address(wdm).write(FILE_OBJECT_DEVICE, device.device_object);
        let file = Arc::new(Self {
            object: object.clone(),
            device: device.clone(),
            wdm,
            outstanding: AtomicU32::new(0),
        });
        object.set_body(file.clone());
        file
    }

    /// Deletes it: after CLOSE, or because CREATE failed.
    pub(crate) fn delete(&self, machine: &Machine) {
        super::Wdf::of(machine).objects.delete(machine, &self.object);
        machine.release(self.wdm as usize);
    }
}

imports! {
    pub(crate) static IMPORTS: "wdf01000";

    /// The `FILE_OBJECT` of a file.
    [max: DISPATCH, mark: Documented, source: "DDI wdffileobject/nf-wdffileobject-wdffileobjectwdmgetfileobject"]
    fn WdfFileObjectWdmGetFileObject(thread, globals: u64, file: u64) -> u64 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        entered.body::<File>(file, Kind::FileObject).map_or(0, |file| file.wdm)
    }

    /// The device of a file.
    [max: DISPATCH, mark: Documented, source: "DDI wdffileobject/nf-wdffileobject-wdffileobjectgetdevice"]
    fn WdfFileObjectGetDevice(thread, globals: u64, file: u64) -> u64 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        entered.body::<File>(file, Kind::FileObject).map_or(0, |file| file.device.handle())
    }
}
