from django.apps import AppConfig


class ProxyConfig(AppConfig):
    name = "proxy"

    def ready(self) -> None:
        from conversations import forgetting
        from proxy.spool import replaying

        forgetting.bring_in.append(replaying.store_spool)  # forgetting reaches exchanges that wait in the spool
