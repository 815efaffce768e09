// Intel's ipsec-mb sealing or opening one packet in place, by its direct calls: those are in a table that only C can name.
#include <intel-ipsec-mb.h>

IMB_MGR *ipsec_mb_new(void)
{
    IMB_MGR *manager = alloc_mb_mgr(0);
    if (manager)
        init_mb_mgr_auto(manager, NULL);
    return manager;
}

void ipsec_mb_crypt(IMB_MGR *manager, int opens, const void *key, const void *nonce, void *text, uint64_t len, void *tag)
{
    struct chacha20_poly1305_context_data context;
    IMB_CHACHA20_POLY1305_INIT(manager, key, &context, nonce, NULL, 0);
    if (opens)
        IMB_CHACHA20_POLY1305_DEC_UPDATE(manager, key, &context, text, text, len);
    else
        IMB_CHACHA20_POLY1305_ENC_UPDATE(manager, key, &context, text, text, len);
    IMB_CHACHA20_POLY1305_ENC_FINALIZE(manager, &context, tag, 16);
}
