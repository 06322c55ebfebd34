;; It takes the servers in turn, weights of 0 left out, for 10,000 calls; then it answers
;; nonsense.
(module
  (global $calls (mut i32) (i32.const 0))
  (global $slot (mut i32) (i32.const 0))
  (memory (export "memory") 1)
  (data (i32.const 64) "\01\00\00\00\00\00\00\00\00\04\00\00\00\10\00\00")
  (func (export "shunt_abi_version") (result i32) (i32.const 1))
  (func (export "shunt_init") (param i32 i32 i64) (result i32) (i32.const 64))
  (func (export "shunt_schedule") (result i32)
    (local $left i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (if (i32.gt_u (global.get $calls) (i32.const 10000)) (then (return (i32.const 999999))))
    (local.set $left (i32.load (i32.const 88)))
    (loop $next
      (if (i32.eqz (local.get $left)) (then (return (i32.const -1))))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (global.set $slot
        (i32.rem_u (i32.add (global.get $slot) (i32.const 1)) (i32.load (i32.const 88))))
      (br_if $next
        (i32.eqz
          (i32.load (i32.add (i32.const 4096) (i32.shl (global.get $slot) (i32.const 5)))))))
    (global.get $slot)))
