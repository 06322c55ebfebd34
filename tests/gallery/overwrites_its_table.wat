;; It writes over its table and its servers in every call. It hurts nobody but itself.
(module
  (memory (export "memory") 1)
  (data (i32.const 64) "\01\00\00\00\00\00\00\00\00\04\00\00\00\10\00\00")
  (func (export "shunt_abi_version") (result i32) (i32.const 1))
  (func (export "shunt_init") (param i32 i32 i64) (result i32) (i32.const 64))
  (func (export "shunt_schedule") (result i32)
    (memory.fill (i32.const 64) (i32.const 0xff) (i32.const 36800))
    (i32.const 0)))
