import io.apicurio.registry.utils.converter.AvroConverter;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import org.apache.kafka.connect.data.SchemaAndValue;
import org.apache.kafka.connect.json.JsonConverter;
import org.apache.kafka.connect.json.JsonConverterConfig;
import org.apache.kafka.connect.storage.Converter;

/**
 * Shows records as Kafka Connect has them behind its Avro converter. Arguments: the converter's settings, name=value.
 * Each line of the input is `topic key|value hex`; each of the output is Connect's own JSON, with the schema.
 */
public class ConnectView {
    public static void main(String[] arguments) throws Exception {
        Map<String, Object> settings = new HashMap<>();
        for (String argument : arguments) {
            String[] pair = argument.split("=", 2);
            settings.put(pair[0], pair[1]);
        }
        var avro = Map.of("key", avro(settings, true), "value", avro(settings, false));
        try (var json = new JsonConverter()) {
            json.configure(Map.of(JsonConverterConfig.SCHEMAS_ENABLE_CONFIG, "true", "converter.type", "value"));
            var out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
            var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            for (String line; (line = input.readLine()) != null; ) {
                String[] parts = line.split(" ");
                SchemaAndValue seen = avro.get(parts[1]).toConnectData(parts[0], HexFormat.of().parseHex(parts[2]));
                byte[] shown = json.fromConnectData(parts[0], seen.schema(), seen.value());
                out.println(new String(shown, StandardCharsets.UTF_8));
            }
        }
    }

    private static Converter avro(Map<String, Object> settings, boolean isKey) {
        var converter = new AvroConverter<>();
        converter.configure(settings, isKey);
        return converter;
    }
}
